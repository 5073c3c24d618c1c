from pathlib import Path

import pytest

from benchmarks.segmentation import penalty, real_data, with_profile


def test_the_profiles_it_measures_are_valid_and_differ_in_privacy():
    plain = with_profile("hippocampus", data=Path("volumes"), changes={"privacy": {"enabled": False}})
    private = with_profile("hippocampus_private", data=Path("volumes"), changes={"model": {"seed": 4}})
    assert (plain.privacy.enabled, private.privacy.enabled) == (False, True)
    assert private.model.seed == 4 and private.ingest.folder == "volumes"


def test_the_penalty_is_measured():
    assert penalty("jet", seed=1) > 0


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_without_volumes_there_is_no_real_data(monkeypatch, name):
    monkeypatch.setenv("PRIMIA_REAL_DATA", name)
    assert real_data() is None
