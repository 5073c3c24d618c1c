"""The profile of the liver on generated CT volumes in the layout of Task03 of the Medical Segmentation Decathlon."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from nifti_files import affine, save

from benchmarks.grid import overlaid
from primia.config import Params, parse_params
from primia.data.image_set import ImageSet, load_image_set
from primia.data.ingest import ingest
from primia.data.sites import build_site_sets
from primia.models.marking import mark
from primia.models.networks import build_network
from primia.models.released import ReleasedModel

ROOT = Path(__file__).parents[2]
PATIENTS = 9
SHAPE = (80, 80, 20)  # a trunk of 360 x 360 x 240 mm
AIR, FAT, LIVER, TUMOUR, BONE = -1000, -200, 60, 25, 700  # Hounsfield units
FEW = {"preprocess": {"validation_fraction": 0.5}}  # patients


def ball(centre, radius):
    """Voxels around a place, in shares of the trunk's sides."""
    at = np.meshgrid(*(np.linspace(0, 1, length) for length in SHAPE), indexing="ij")
    return sum((grid - middle) ** 2 for grid, middle in zip(at, centre, strict=True)) < radius**2


def generate(folder: Path) -> None:
    """A trunk in air with a liver, in every other patient a tumour in it, and a bone."""
    for patient in range(PATIENTS):
        truth, values = np.zeros(SHAPE, np.uint8), np.full(SHAPE, AIR, np.int16)
        values[ball((0.5, 0.5, 0.5), 0.45)] = FAT
        values[ball((0.5, 0.2, 0.5), 0.05)] = BONE
        where = (0.35 + 0.01 * patient, 0.55, 0.55)
        for number, radius, intensity in ((1, 0.2, LIVER), (2, 0.07 * (patient % 2), TUMOUR)):
            truth[ball(where, radius)], values[ball(where, radius)] = number, intensity
        at = affine(directions=(-1, 1, 1), spacing=(4.5, 4.5, 12.0), origin=(180.0, -180.0, -900.0 - patient))
        save(folder / "imagesTr" / f"liver_{patient}.nii.gz", values, at)
        save(folder / "labelsTr" / f"liver_{patient}.nii.gz", truth, at)
    (folder / "dataset.json").write_text('{"labels": {"0": "background", "1": "liver", "2": "cancer"}}')


@pytest.fixture(scope="module")
def livers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("Task03_Liver")
    generate(folder)
    return folder


def prepared(livers: Path, folder: Path, profile: str) -> tuple[Params, ImageSet]:
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text())
    params = parse_params(overlaid(overlaid(overlaid(base, own), {"ingest": {"folder": str(livers)}}), FEW))
    ingest(params.ingest, task=params.task, hospitals=params.preprocess.hospitals, target=folder / "raw")
    build_site_sets(
        params.preprocess,
        classes=params.ingest.classes,
        raw=folder / "raw",
        sites=folder / "sites",
        test=folder / "test",
    )
    return params, load_image_set(folder / "test" / "test.safetensors")


@pytest.mark.parametrize(
    ("profile", "shape", "voxel"),
    [("liver", (256, 256), 1.6**2 * 5.0), ("liver_volumes", (128, 128, 50), 3.2**2 * 10.0)],
)
def test_livers_become_images_of_soft_tissue_with_tumours_taken_for_liver(livers, tmp_path, profile, shape, voxel):
    params, test = prepared(livers, tmp_path, profile)
    assert params.ingest.classes == test.classes == ("background", "liver")
    assert test.images.shape[1:] == (1, *shape) and test.labels.shape[1:] == shape
    liver = test.images[:, 0][test.labels == 1].float()
    # (60 + 150) / 350 of the way from -150 to 200 HU, and air as well as fat below, bone above.
    assert abs(float(liver.median()) - 0.6) < 0.01
    assert (float(test.images.min()), float(test.images.max())) == (0.0, 1.0)
    for number, name in enumerate(test.patient_ids):
        found = int((test.labels[test.patients == number] == 1).sum()) * voxel
        truth = nibabel.load(livers / "labelsTr" / f"{name}.nii.gz")
        wanted = np.count_nonzero(truth.dataobj) * 4.5**2 * 12.0
        assert abs(found / wanted - 1) < 0.05


@pytest.mark.parametrize("profile", ["liver", "liver_volumes"])
def test_a_network_of_the_profile_marks_a_whole_liver_volume(livers, tmp_path, profile):
    params, test = prepared(livers, tmp_path, profile)
    volume, architecture = params.preprocess.volume, params.model.architecture
    network = build_network(architecture, classes=2, pixels=test.pixels, depth=volume.depth, seed=1)
    model = ReleasedModel(
        network=network,
        architecture=architecture,
        classes=test.classes,
        pixels=test.pixels,
        volume=volume,
        mean=0.2,
        std=0.3,
        round=1,
    )
    with torch.no_grad():
        mask = mark(model, nibabel.load(livers / "imagesTr" / f"{test.patient_ids[0]}.nii.gz"))
    assert mask.shape == SHAPE and set(np.unique(mask)) <= {0, 1}
