"""Real processes: hospitals that federate, and arms that train in one place."""

import shutil

import numpy as np
import pytest

from primia.comparison.run import compare
from primia.errors import DataError, PrimiaError
from primia.evaluation.metrics import mcc

pytestmark = pytest.mark.system


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def params(params_with):
    return params_with(federation__rounds=2, comparison__enabled=True, comparison__seeds=[1, 2])


def run(params, places, state, *, stop_at=None):
    """The comparison and the finished rounds it told; `stop_at` interrupts it after so many."""
    sites, test = places
    told, results = [], []

    def on_round(done, total):
        told.append((done, total))
        if done == stop_at:
            raise Stopped

    compare(params, sites=sites, test=test, state=state, on_round=on_round, on_result=results.append)
    return results[0], told


@pytest.fixture(scope="module")
def begun(params, places, tmp_path_factory):
    """The state of a comparison that was interrupted: 8 trainings in one place, one federation, and a round more."""
    state = tmp_path_factory.mktemp("begun")
    with pytest.raises(Stopped):
        run(params, places, state, stop_at=19)
    return state


@pytest.fixture(scope="module")
def compared(params, places, begun, tmp_path_factory):
    """The same comparison, resumed; what it gave, which rounds it told, and its state."""
    state = tmp_path_factory.mktemp("state") / "copy"
    shutil.copytree(begun, state)
    return *run(params, places, state), state


def test_every_arm_is_trained_with_every_seed_and_beats_guessing(compared):
    comparison, _, _ = compared
    assert list(comparison.outcomes) == [
        "centralised",
        "alone: north",
        "alone: river",
        "alone: hill",
        "federated_clear",
        "federated",
    ]
    for by_seed in comparison.outcomes.values():
        assert sorted(by_seed) == [1, 2]
        for outcome in by_seed.values():
            assert mcc(outcome.answers, comparison.labels) > 0.1
            assert 1 <= outcome.round <= 2 and outcome.epsilon is None


def test_masks_change_nothing_at_all(compared):
    comparison, _, _ = compared
    for seed in (1, 2):
        in_clear, masked = (comparison.outcomes[arm][seed] for arm in ("federated_clear", "federated"))
        assert (in_clear.answers == masked.answers).all()


def test_seeds_and_arms_give_different_models(compared):
    comparison, _, _ = compared
    answers = [comparison.outcomes[arm][seed].answers for arm in ("centralised", "federated") for seed in (1, 2)]
    assert all((one != other).any() for place, one in enumerate(answers) for other in answers[:place])


def test_progress_counts_the_rounds_of_all_arms_and_nothing_is_left_behind(compared):
    _, told, state = compared
    assert {total for _, total in told} == {2 * 6 * 2}
    assert [done for done, _ in told] == sorted(done for done, _ in told) and told[-1][0] == 24
    assert list(state.iterdir()) == []


def test_an_interrupted_comparison_goes_on_after_its_last_finished_arm_and_round(begun, compared):
    (folder,) = begun.iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 9
    _, told, _ = compared
    assert told[0][0] == 20  # 18 rounds of nine arms, one of the tenth, and the next


def test_a_resumed_arm_ends_where_an_uninterrupted_one_does(params_with, places, compared, tmp_path):
    one_seed = params_with(federation__rounds=2, comparison__enabled=True, comparison__seeds=[2])
    again, _ = run(one_seed, places, tmp_path)
    for arm, by_seed in again.outcomes.items():
        np.testing.assert_array_equal(by_seed[2].answers, compared[0].outcomes[arm][2].answers)


def test_other_images_do_not_go_on_where_earlier_ones_stopped(params, places, begun):
    sites, _ = places
    with pytest.raises(Stopped):  # it begins with the very first round
        run(params, (sites, sites / "north/validation.safetensors"), begun, stop_at=1)


def test_a_missing_hospital_is_named(params, places, tmp_path):
    with pytest.raises(DataError, match=r"north/train\.safetensors is missing; run the preprocess stage"):
        run(params, (tmp_path / "nowhere", places[1]), tmp_path)


def test_with_differential_privacy_only_the_configured_federation_spends(params_with, places, tmp_path):
    params = params_with(
        federation__rounds=1, comparison__enabled=True, privacy__enabled=True, privacy__sampling_rate=1.0
    )
    comparison, _ = run(params, places, tmp_path)
    spent = {arm: by_seed[1].epsilon for arm, by_seed in comparison.outcomes.items()}
    assert 0 < spent.pop("federated") <= 8.01
    assert "federated_without_privacy" in spent and set(spent.values()) == {None}


def test_an_arm_whose_training_diverges_is_named_and_the_others_end(params_with, places, tmp_path):
    params = params_with(federation__rounds=2, comparison__enabled=True, training__learning_rate=100.0)
    with pytest.raises(PrimiaError, match=r"arm (centralised|alone: \w+): .*training diverged"):
        run(params, places, tmp_path)
