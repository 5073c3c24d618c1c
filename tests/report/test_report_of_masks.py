"""The report about a model that marks structures in volumes."""

from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.grid import overlaid
from primia.comparison.results import write_skipped
from primia.config import load_params
from primia.data.image_set import ImageSet
from primia.evaluation.segmented import judge_masks
from primia.files import write_json
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.report.build import build_report

ROOT = Path(__file__).parents[2]
CLASSES = ("background", "anterior", "posterior")


def volumes(patients: int, *, shape: tuple[int, ...]) -> ImageSet:
    """Slices or volumes of noise, in whose middle is one structure, and in four patients a second one."""
    labels = torch.zeros(patients, *shape, dtype=torch.uint8)
    labels[:, 4:9, 4:9] = 1
    labels[:4, 9:12, 4:9] = 2
    return ImageSet(
        images=torch.rand(patients, 1, *shape, generator=torch.Generator().manual_seed(1)).half(),
        labels=labels,
        patients=torch.arange(patients),
        image_ids=tuple(f"image-{number}" for number in range(patients)),
        patient_ids=tuple(f"patient-{number}" for number in range(patients)),
        classes=CLASSES,
    )


@pytest.mark.parametrize(
    ("profile", "size"),
    [
        ("hippocampus", "unet, standardised weights, 48 × 48 pixels of 1 × 1 × 1 mm"),
        ("hippocampus_private", "jet, 64 × 64 × 48 pixels of 1 × 1 × 1 mm"),
        ("liver", "unet_resnet18, 256 × 256 pixels of 1.6 × 1.6 × 5 mm"),
    ],
)
def test_the_card_says_of_what_voxels_and_from_how_many_patients(release_root, profile, size):
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text())
    (release_root / "params.yaml").write_text(yaml.safe_dump(overlaid(base, own)))
    settings = load_params(release_root / "params.yaml")
    volume = settings.preprocess.volume
    depth = None if volume.depth is None else 8
    model = ReleasedModel(
        network=build_network("jet", classes=3, pixels=16, seed=1, depth=depth),
        architecture="jet",
        classes=CLASSES,
        pixels=16,
        volume=volume.model_copy(update={"depth": depth}),
        mean=0.5,
        std=0.3,
        round=3,
    )
    results = release_root / "results"
    shape = (16, 16) if depth is None else (16, 16, depth)
    judge_masks(model, volumes(6, shape=shape), settings=settings.evaluation).write(results / "evaluation")
    write_json(results / "encryption/metrics.json", {"enabled": False})
    write_skipped(results / "comparison")
    build_report(release_root, template=ROOT / "mlflow/model_card.md.j2", target=release_root / "report")
    card = (release_root / "report/model_card.md").read_text()
    assert size in card
    assert "| – to – | 4 patients |" in card and "6 patients |" in card
    assert {"dice.png"} <= {path.name for path in (release_root / "report/plots").iterdir()}
