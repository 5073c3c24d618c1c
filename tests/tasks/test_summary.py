"""What to type next, as the summary of a run says it."""

from pathlib import Path

import pytest
import yaml

from benchmarks.grid import overlaid
from primia.config import load_params, parse_params
from tasks.approval import CHALLENGER, CHAMPION
from tasks.summary import next_steps

ROOT = Path(__file__).parents[2]
CLASSIFYING = load_params(ROOT / "params.yaml")


@pytest.mark.system  # a real store
def test_a_version_is_to_be_promoted_until_it_is_the_champion(desk) -> None:
    number = desk.register()
    assert f"flows.promote --version {number} " in next_steps(
        desk.client.get_model_version(desk.model, number), CLASSIFYING
    )
    for alias, due in ((CHALLENGER, True), (CHAMPION, False)):
        desk.client.set_registered_model_alias(desk.model, alias, number)
        said = next_steps(desk.client.get_model_version(desk.model, number), CLASSIFYING)
        assert ("flows.promote" in said) == due
        assert "make up" in said and "primia token add clinic-a" in said


def test_without_a_version_its_number_is_left_open() -> None:
    assert "flows.promote --version N " in next_steps(None, CLASSIFYING)


@pytest.mark.parametrize(
    ("profile", "last"),
    [("hippocampus", "primia segment scan.nii.gz --model models:/hippocampus@champion"), ("lungs", "")],
)
def test_a_model_that_marks_structures_is_not_sent_to_the_diagnosis_of_encrypted_images(profile, last) -> None:
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    own = yaml.safe_load((ROOT / "profiles" / f"{profile}.yaml").read_text())
    said = next_steps(None, parse_params(overlaid(base, own)))
    assert last in said and "primia token" not in said and ("primia segment" in said) == bool(last)
