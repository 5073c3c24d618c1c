import csv
from pathlib import Path

import numpy as np
import pytest

from primia.comparison.arms import arms_of
from primia.comparison.outcome import Comparison, Outcome, load_outcome, save_outcome
from primia.comparison.results import write_results, write_skipped
from primia.config import load_params
from primia.files import read_json

LABELS, PATIENTS = np.arange(60) % 3, np.arange(60) // 2


@pytest.fixture(scope="module")
def params():
    raw = load_params(Path(__file__).parents[2] / "params.yaml")
    return raw.model_copy(update={"evaluation": raw.evaluation.model_copy(update={"bootstrap": 100})})


@pytest.fixture(scope="module")
def written(params, tmp_path_factory):
    """A comparison in which the lone hospitals guess, and every other arm is right four times in five."""
    folder, generator = tmp_path_factory.mktemp("comparison"), np.random.default_rng(1)

    def outcome(arm, seed):
        right = generator.random(60) < (0.33 if arm.alone else 0.8)
        answer = np.where(right, LABELS, (LABELS + 1) % 3)
        probabilities = 0.1 + 0.7 * np.eye(3)[answer]
        return Outcome(probabilities, round=seed, epsilon=7.0 + seed if arm.private else None, seconds=2.0)

    arms = arms_of(params)
    outcomes = {arm.name: {seed: outcome(arm, seed) for seed in (1, 2)} for arm in arms}
    write_results(folder, Comparison(arms, (1, 2), outcomes, LABELS, PATIENTS), params=params)
    return folder


def test_the_figures_of_an_arm_are_means_over_the_seeds(written):
    rows = list(csv.DictReader((written / "comparison.csv").read_text().splitlines()))
    for arm in read_json(written / "comparison.json")["arms"]:
        by_seed = [float(row["mcc"]) for row in rows if row["arm"] == arm["name"]]
        assert arm["by_seed"] == pytest.approx(by_seed, abs=1e-6)
        assert arm["mcc"]["value"] == pytest.approx(np.mean(by_seed), abs=1e-6)
        assert arm["mcc"]["low"] < arm["mcc"]["value"] < arm["mcc"]["high"]


def test_a_difference_is_that_of_the_means_and_alone_is_the_mean_of_the_hospitals(written):
    told, metrics = read_json(written / "comparison.json"), read_json(written / "metrics.json")
    mcc = {arm["name"]: arm["mcc"]["value"] for arm in told["arms"]}
    alone = np.mean([value for name, value in mcc.items() if name.startswith("alone")])
    assert metrics["mcc"]["alone"] == told["alone"]["mcc"]["value"] == pytest.approx(alone)
    difference = metrics["mcc_difference"]["federated_minus_alone"]
    assert difference["value"] == pytest.approx(mcc["federated"] - alone)
    assert difference["low"] > 0


def test_only_the_private_arm_has_an_epsilon_the_largest_of_its_seeds(written):
    told = {arm["name"]: arm["epsilon"] for arm in read_json(written / "comparison.json")["arms"]}
    assert told.pop("federated") == 9.0
    assert set(told.values()) == {None}


def test_the_comparison_lists_itself_as_a_release_that_no_budget_covers(written):
    (said,) = read_json(written / "comparison.json")["uncovered"]
    assert "outside any privacy budget" in said


def test_without_a_comparison_the_same_files_say_so(written, tmp_path):
    write_skipped(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written.iterdir()}
    assert read_json(tmp_path / "comparison.json") == {"enabled": False, "uncovered": []}
    assert read_json(tmp_path / "metrics.json") == {"enabled": False}
    header = (tmp_path / "comparison.csv").read_text()
    assert (written / "comparison.csv").read_text().startswith(header.strip())


def test_an_outcome_comes_back_as_it_was_saved(tmp_path):
    outcome = Outcome(np.random.default_rng(1).random((4, 3)), round=2, epsilon=None, seconds=0.5)
    save_outcome(tmp_path / "arm.safetensors", outcome)
    again = load_outcome(tmp_path / "arm.safetensors")
    assert (again.answers == outcome.answers).all()
    assert (again.round, again.epsilon, again.seconds) == (2, None, 0.5)


def test_a_missing_or_damaged_outcome_is_made_again(tmp_path):
    path = tmp_path / "arm.safetensors"
    assert load_outcome(path) is None
    path.write_bytes(b"half of it")
    assert load_outcome(path) is None
