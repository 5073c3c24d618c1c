from pathlib import Path

import pytest

from benchmarks.segmentation import figures_of, penalty, real_data, with_profile


def test_the_profiles_it_measures_are_valid_and_differ_in_privacy():
    plain = with_profile("hippocampus", data=Path("volumes"), changes={"privacy": {"enabled": False}})
    private = with_profile("hippocampus_private", data=Path("volumes"), changes={"model": {"seed": 4}})
    assert (plain.privacy.enabled, private.privacy.enabled) == (False, True)
    assert private.model.seed == 4 and private.ingest.folder == "volumes"


def test_the_penalty_is_measured():
    assert penalty("jet", seed=1) > 0.5  # a private step takes the plain one's gradients and clips them


def test_the_object_tells_each_federation_as_what_it_is():
    plain, private = (
        {
            "dice": {"value": dice, "low": dice, "high": dice},
            "patients": 52,
            "epsilon": epsilon,
            "rounds": rounds,
            "seconds": 1.0,
            "parameters": 10,
            "bytes_per_round": 100,
        }
        for dice, epsilon, rounds in ((0.8, None, 20), (0.7, 7.9, 60))
    )
    told = figures_of(plain, private, {"unet": 1.3, "jet": 1.1}, data="hippocampus", seed=4)
    assert (told["dice_federated"], told["dice_dp"], told["epsilon"], told["penalty"]) == (0.8, 0.7, 7.9, 1.3)
    assert told["rounds"] == {"federated": 20, "dp": 60} and told["intervals"]["dice_dp"]["low"] == 0.7
    assert (told["seed"], told["patients"], told["data"]) == (4, 52, "hippocampus")


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_without_volumes_there_is_no_real_data(monkeypatch, name):
    monkeypatch.setenv("PRIMIA_REAL_DATA", name)
    assert real_data() is None
