"""A promotion goes by the files of a version, not by tags that anybody may have written."""

from pathlib import Path

import pytest

from primia.config import Registry, load_params
from primia.errors import GateError
from tasks.approval import APPROVED_SIGNATURE, MARKS_TAG, PROFILE_TAG
from tasks.promotion import promote_version

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.system  # a real store


def promote(desk, version: str) -> None:
    params = load_params(ROOT / "params.yaml").model_copy(update={"registry": Registry(name=desk.model)})
    promote_version.fn(params, version=int(version), name="A. Reviewer", reason="a test")


@pytest.mark.parametrize(
    "changed",
    [{PROFILE_TAG: "clinical"}, {MARKS_TAG: ""}, {MARKS_TAG: "fit for patients"}],
    ids=["profile", "no marks", "other marks"],
)
def test_a_version_whose_profile_or_marks_were_changed_is_not_promoted(desk, changed) -> None:
    version = desk.register(marks="unfit for patients")
    desk.tag(version, **changed)
    with pytest.raises(GateError, match=r"profile demo and a tag primia\.marks that begins with unfit for patients"):
        promote(desk, version)
    found = desk.client.get_model_version(desk.model, version)
    assert found.aliases == []
    assert APPROVED_SIGNATURE not in found.tags


@pytest.mark.parametrize("marks", ["unfit for patients", "unfit for patients; under review"])
def test_marks_may_be_added_to_before_a_promotion_and_the_gates_decide(desk, marks) -> None:
    version = desk.register(marks=marks)
    with pytest.raises(GateError, match="does not pass its gates"):  # these files hold no figures
        promote(desk, version)
