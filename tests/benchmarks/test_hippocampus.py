from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from federating import parameters
from marked_images import marked, write_marked_sites

from benchmarks.grid import overlaid
from benchmarks.hippocampus import PROFILES, Cell, cells_of, main, measured

ROOT = Path(__file__).parents[2]
SEGMENTING = {"task": "segmentation", "ingest__classes": ["background", "lungs"], "model__architecture": "jet"}


@pytest.mark.parametrize("architecture", PROFILES)
def test_every_cell_has_its_own_name_and_valid_parameters(architecture):
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    base = overlaid(base, yaml.safe_load((ROOT / "profiles" / f"{PROFILES[architecture]}.yaml").read_text()))
    cells = cells_of(architecture)
    assert len({cell.name for cell in cells}) == len(cells) == (5 if architecture == "jet" else 11)
    for cell in cells:
        params = cell.params(base)
        assert params.model.architecture == architecture and params.model.seed == params.training.seed == cell.seed
        assert params.privacy.enabled is (cell.epsilon is not None)
        assert cell.epsilon in (None, params.privacy.target_epsilon)
        assert replace(cell, rounds=3).params(base).federation.rounds == 3


def test_rounds_that_are_only_timed_do_not_enter_the_table(capsys):
    with pytest.raises(SystemExit):
        main(["--data", "somewhere", "--rounds", "2"])
    assert "name another --out than docs/results/hippocampus.json" in capsys.readouterr().err


@pytest.mark.system
def test_trainings_in_one_place_and_federated_are_judged_on_the_same_patients(tmp_path):
    base = parameters(ROOT, **SEGMENTING).model_dump(mode="json")
    base["training"] |= {"loss": "dice_cross_entropy"}
    base["federation"]["rounds"] = 2
    base["secure_aggregation"]["clip_range"] = 2.0
    place = {"sites": write_marked_sites(tmp_path / "sites"), "test": marked(patients=9, seed=7)}
    told = {}
    for cell in (Cell("jet", "alone: hill", None, 1), Cell("jet", "federated", 8.0, 1)):
        state = tmp_path / str(len(told))
        params = cell.params(base)
        told[cell.way] = measured(cell, params, **place, state=state)
    alone, private = told.values()
    for one in told.values():
        assert one["dice"]["low"] <= one["dice"]["value"] <= one["dice"]["high"]
        assert len(one["dice_of_patients"]) == 9 and one["parameters"] == 30 * 16 + 16 + 16 * 2 + 2
    assert (alone["epsilon_spent"], alone["bytes_per_round"]) == (None, None)
    assert 0 < private["epsilon_spent"] <= 8.0 and private["bytes_per_round"] > 0
