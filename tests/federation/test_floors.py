import json

import pytest
from describing import described
from federating import FIVE

from primia.errors import ConfigError, SiteRefusal
from primia.federation.drafting import draft_plan
from primia.federation.floors import Floors, check_plan, check_survivors, read_floors

PATH = "state/floors.json"


@pytest.fixture
def plan(params_with):
    params = params_with(preprocess__hospitals=list(FIVE))
    return draft_plan(params, described(params), privacy=None)


def test_a_missing_file_stands_for_the_defaults(tmp_path):
    assert read_floors(tmp_path / "floors.json") == Floors(minimum_sites=3, allow_clear=False)


def test_the_owners_file_is_read(tmp_path):
    path = tmp_path / "floors.json"
    path.write_text('{"minimum_sites": 7, "allow_clear": true}')
    assert read_floors(path) == Floors(minimum_sites=7, allow_clear=True)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"minimum_sites": 2}',
        '{"minimum_sites": "4"}',
        '{"allow": true}',
        '{"lifetime_epsilon": 0.0}',
        '{"lifetime_delta": 1.0}',
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path, content):
    path = tmp_path / "floors.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"floors.json: .* is not valid .*correct it, or remove the file"):
        read_floors(path)


def test_a_plan_at_the_floors_is_accepted(plan):
    check_plan(Floors(), plan, path=PATH)
    check_plan(Floors(minimum_sites=4), plan, path=PATH)


def test_too_few_hospitals_are_refused(plan):
    with pytest.raises(
        SiteRefusal, match=r"has 5 hospitals, but this one demands 6 .* minimum_sites in state/floors.json"
    ):
        check_plan(Floors(minimum_sites=6), plan, path=PATH)


@pytest.mark.parametrize(("threshold", "minimum", "demanded"), [(1, 3, 4), (3, 3, 4), (4, 5, 5)])
def test_a_threshold_below_two_thirds_or_the_owners_minimum_is_refused(plan, threshold, minimum, demanded):
    low = plan.model_copy(update={"threshold": threshold})
    with pytest.raises(SiteRefusal, match=f"threshold is {threshold}, but this hospital demands that {demanded} of 5"):
        check_plan(Floors(minimum_sites=minimum), low, path=PATH)


def test_sums_in_clear_need_consent_and_then_no_company(plan):
    clear = plan.model_copy(
        update={"secure_aggregation": plan.secure_aggregation.model_copy(update={"scheme": "none"})}
    )
    with pytest.raises(SiteRefusal, match=r"secure_aggregation.scheme: none.*allow_clear.*state/floors.json"):
        check_plan(Floors(), clear, path=PATH)
    alone = clear.model_copy(update={"hospitals": {"hill": plan.hospitals["hill"]}, "threshold": 1})
    check_plan(Floors(allow_clear=True), alone, path=PATH)


def test_too_few_survivors_are_refused():
    check_survivors(Floors(minimum_sites=4), 4, path=PATH)
    with pytest.raises(SiteRefusal, match="Only 3 hospitals are left, but this one demands 4"):
        check_survivors(Floors(minimum_sites=4), 3, path=PATH)


def test_the_floors_travel_to_a_process_as_they_are():
    floors = Floors(minimum_sites=5, allow_clear=True)
    assert Floors.model_validate_json(floors.model_dump_json()) == floors
    assert {"minimum_sites": 5, "allow_clear": True}.items() <= json.loads(floors.model_dump_json()).items()


def test_a_hospital_may_demand_differential_privacy(plan):
    assert plan.privacy is None
    with pytest.raises(SiteRefusal, match=r"require_privacy in .*floors.json forbids"):
        check_plan(Floors(require_privacy=True), plan, path=PATH)
