import stat

import pytest

from primia.errors import FederationError
from primia.federation.released_sums import CohortRefusal, ReleasedSums

ALL = ("hill", "north", "river", "west")
MODEL = "a" * 64


@pytest.fixture
def sums(tmp_path):
    return lambda data="0" * 64: ReleasedSums(tmp_path / "sums.jsonl", data=data)


def test_a_sum_that_was_unmasked_is_given_again_in_the_same_company_only(sums, tmp_path):
    held = sums()
    held.check("train", MODEL, survivors=ALL)
    held.add("train", MODEL, survivors=ALL)
    for remembered in (held, sums()):  # also after a restart
        remembered.check("train", MODEL, survivors=reversed(ALL))
        remembered.add("train", MODEL, survivors=ALL)
        for others in (ALL[1:], (*ALL, "lake"), (*ALL[1:], "lake")):
            with pytest.raises(CohortRefusal, match="unmasked for hill, north, river, west") as caught:
                remembered.check("train", MODEL, survivors=others)
            assert caught.value.cohort == ALL
    assert len((tmp_path / "sums.jsonl").read_text().splitlines()) == 1
    assert stat.S_IMODE((tmp_path / "sums.jsonl").stat().st_mode) == 0o600


def test_other_models_purposes_and_images_are_other_sums(sums):
    sums().add("train", MODEL, survivors=ALL)
    sums().check("train", "b" * 64, survivors=ALL[1:])
    sums().check("evaluate", MODEL, survivors=ALL[1:])
    sums().check("statistics", None, survivors=ALL[1:])
    sums(data="1" * 64).check("train", MODEL, survivors=ALL[1:])


def test_a_cohort_that_cannot_end_in_the_same_company_is_refused_at_once(sums):
    held = sums()
    held.check_possible("train", MODEL, present=ALL[1:])
    held.add("train", MODEL, survivors=ALL)
    held.check_possible("train", MODEL, present=(*ALL, "lake"))  # lake may still drop out
    with pytest.raises(CohortRefusal):
        held.check_possible("train", MODEL, present=(*ALL[1:], "lake"))


def test_a_line_cut_short_by_a_power_failure_was_never_answered(sums, tmp_path):
    sums().add("train", MODEL, survivors=ALL)
    path = tmp_path / "sums.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"data": "00')
    sums().add("evaluate", MODEL, survivors=ALL)
    assert path.read_bytes().startswith(whole)
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(CohortRefusal):
        sums().check("evaluate", MODEL, survivors=ALL[1:])


def test_a_damaged_line_is_not_forgotten(sums, tmp_path):
    (tmp_path / "sums.jsonl").write_text("{}\n")
    with pytest.raises(FederationError, match=r"Line 1 of .*sums.jsonl is damaged"):
        sums()
