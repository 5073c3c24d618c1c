"""The same pipeline with `task: segmentation`, on a small checkout with the profile of lungs."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_checkout import ROOT, Checkout, make_checkout, python

from primia.evaluation.pictures import save_overlays
from primia.report.build import build_report

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = make_checkout(tmp_path_factory.mktemp("lungs"))
    answer = checkout.run("flows.pipeline", "--profile", "lungs", timeout=600)
    assert answer.returncode == 0, answer.stderr + answer.stdout
    return checkout


def results(checkout: Checkout, stage: str):
    return json.loads((checkout.folder / "results" / stage / "metrics.json").read_text())


def test_every_stage_passes_and_lungs_are_found(segmented: Checkout) -> None:
    assert results(segmented, "evaluation")["dice"]["low"] > 0.5
    # Not the validation's score: of so few patients its noise may leave nothing.
    assert results(segmented, "federation")["rounds"] == 10
    assert results(segmented, "attack")["gradient_retrieval"]["verdict"] == "PASS"
    assert results(segmented, "encryption") == {"enabled": False}


def test_the_report_shows_overlays_and_says_that_nothing_answers_encrypted_images(segmented: Checkout) -> None:
    card = (segmented.folder / "results/report/model_card.md").read_text()
    assert "It marks lungs in greyscale images." in card
    assert "It answers on plain images only" in card and "## Encrypted diagnosis" not in card
    assert "| Dice of lungs |" in card
    assert "| Dice by hospital of the test patients |" in card and "\n| river | " in card
    assert {"overlays.png", "dice.png"} <= {path.name for path in (segmented.folder / "results/report/plots").iterdir()}


def test_the_report_says_why_nobody_is_shown(segmented: Checkout, tmp_path: Path) -> None:
    for name in ("params.yaml", "data/raw/source.json", "results"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (segmented.folder / name).is_dir() else shutil.copy
        copy(segmented.folder / name, tmp_path / name)
    save_overlays(tmp_path / "results/evaluation/pictures.safetensors", ())
    build_report(tmp_path, template=ROOT / "mlflow/model_card.md.j2", target=tmp_path / "report")
    card = (tmp_path / "report/model_card.md").read_text()
    assert "not shown: nobody said that they may be (`evaluation.pictures`)" in card and "overlays" not in card
    assert not (tmp_path / "report/plots/overlays.png").exists()


def test_the_registered_version_gives_every_pixel_a_class(segmented: Checkout) -> None:
    code = (
        "import mlflow, numpy as np\n"
        "model = mlflow.pyfunc.load_model('models:/primia-lungs/1')\n"
        "answer = model.predict(np.full((2, 1, 32, 32), 0.5, dtype=np.float32))\n"
        "assert answer.shape == (2, 2, 32, 32) and np.allclose(answer.sum(axis=1), 1, atol=1e-5)\n"
    )
    python(segmented, code)
