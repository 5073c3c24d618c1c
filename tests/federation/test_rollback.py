"""Rounds that make the model worse are undone; a run that no longer improves stops."""

import numpy as np
import pytest
from federating import NAMES, InProcessChannel, federated, make_coordinator, make_sites

from primia.errors import FederationError
from primia.federation import messages as m
from primia.federation.vectors import bytes_to_words, words_to_bytes

pytestmark = pytest.mark.system  # whole runs

FOUR = (*NAMES, "lake")


@pytest.fixture(scope="module")
def three(params_with):
    return lambda **changes: params_with(federation__rounds=4, federation__rollback_margin=0.2, **changes)


@pytest.fixture(scope="module")
def four(three):
    return lambda **changes: three(preprocess__hospitals=list(FOUR), **changes)


def poisoning(*rounds, name="hill"):
    """A lying hospital: it adds to its masked update nearly as much as the sum of honest ones could be."""

    def spoil(who, request, response):
        if who == name and isinstance(request, m.Train) and request.session.round in rounds:
            vector = bytes_to_words(response.vector)
            poison = np.random.default_rng(1).choice([-50_000_000, 50_000_000], size=len(request.model) // 4)
            vector[: len(poison)] += poison.astype(np.uint32)
            return response.model_copy(update={"vector": words_to_bytes(vector)})
        return response

    return spoil


def asked_models(channel):
    return {r.session.round: r.model for _, r in channel.asked if isinstance(r, m.Train)}


def test_a_poisoned_round_is_undone_and_the_run_goes_on_from_the_earlier_model(three, site_folders, tmp_path):
    result, channel = federated(three(), site_folders, tmp_path, spoil=poisoning(2))
    outcomes = [(s.purpose, s.round, s.outcome) for s in result.sessions if s.outcome != "finished"]
    assert outcomes == [("evaluate", 2, "rolled_back")]
    models = asked_models(channel)
    assert models[3] == models[2]  # what the poisoned round started from
    assert models[4] not in (models[2], models[3])
    mcc = [record.validation_score for record in result.records]
    assert mcc[1] < mcc[0] - 0.2
    assert max(mcc[2:]) > mcc[1] + 0.2
    assert len(mcc) == 4  # the undone round counts
    assert result.stopped is None
    assert result.model.round != 2


def test_two_fallen_rounds_in_a_row_stop_the_run_with_the_last_good_model(three, site_folders, tmp_path):
    result, channel = federated(three(), site_folders, tmp_path, spoil=poisoning(2, 3, 4))
    assert [record.round for record in result.records] == [1, 2, 3]
    assert "rounds 2 and 3 fell more than federation.rollback_margin (0.2)" in result.stopped
    assert result.model.round == 1
    best = next(r for _, r in channel.asked if isinstance(r, m.Evaluate) and r.session.round == 1)
    assert best.model_digest == result.digest  # without a running average, what was validated is the model itself


def test_an_undone_round_is_repeated_in_the_same_company_only(four, site_folders, tmp_path):
    """With others, the difference of the two sums would be the missing hospital's own update."""
    poison = poisoning(2)

    def spoil(name, request, response):
        if name == "lake" and isinstance(request, m.AdvertiseKeys) and request.session.round == 3:
            return "its process was ended by signal 9"
        return poison(name, request, response)

    with pytest.raises(FederationError, match="lake must take part in train of round 3"):
        federated(four(), site_folders, tmp_path, spoil=spoil)
    result, _ = federated(four(), site_folders, tmp_path)  # lake is back
    undisturbed, _ = federated(four(), site_folders, tmp_path / "other", spoil=poisoning(2))
    assert result.digest == undisturbed.digest


def test_a_hospital_that_was_not_in_the_undone_sum_stays_out_of_its_repetition(four, site_folders, tmp_path):
    poison = poisoning(2)

    def spoil(name, request, response):
        if name == "lake" and isinstance(request, m.Train) and request.session.round == 2:
            return "its process was ended by signal 9"
        return poison(name, request, response)

    result, _ = federated(four(), site_folders, tmp_path, spoil=spoil)
    trained = {s.round: s.participants for s in result.sessions if s.purpose == "train"}
    assert trained[2] == trained[3] == tuple(sorted(set(FOUR) - {"lake"}))
    assert trained[4] == tuple(sorted(FOUR))


def test_a_run_killed_around_an_undone_round_resumes_to_the_identical_model(three, site_folders, tmp_path):
    class KilledError(Exception):
        pass

    settings = {
        "federation__server": {"optimiser": "fedadam", "learning_rate": 0.1},
        "federation__average": 0.1,
    }
    undisturbed, _ = federated(three(**settings), site_folders, tmp_path / "other", spoil=poisoning(2))
    assert "rolled_back" in {s.outcome for s in undisturbed.sessions}

    def kill_at(kind, round):
        def tamper(name, request):
            if isinstance(request, kind) and request.session.round == round:
                raise KilledError
            return request

        return tamper

    for kind, round in ((m.Evaluate, 1), (m.Evaluate, 2), (m.Train, 3), (m.Unmask, 4)):
        channel = InProcessChannel(make_sites(site_folders, tmp_path), kill_at(kind, round), poisoning(2))
        with pytest.raises(KilledError):
            make_coordinator(three(**settings), channel, tmp_path).run()
    result, _ = federated(three(**settings), site_folders, tmp_path)
    assert result.digest == undisturbed.digest
    assert result.model.digest() == undisturbed.model.digest()


def test_a_run_that_no_longer_improves_stops_early(three, site_folders, tmp_path):
    result, _ = federated(three(federation__patience=1, federation__release="best"), site_folders, tmp_path)
    assert [record.round for record in result.records] == [1, 2]
    assert "did not improve for 1 rounds (federation.patience is 1); the model of round 1 is kept" in result.stopped
    assert result.model.round == 1
