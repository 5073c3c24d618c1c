"""Whole runs in which hospitals fail, come back, refuse, or are missed."""

import json

import pytest
from federating import FIVE, InProcessChannel, federated, make_coordinator, make_sites

from primia.errors import DataError, FederationError
from primia.federation import messages as m

pytestmark = pytest.mark.system  # whole runs

FIGURES = ("round", "validation_score", "validation_loss", "clipped_fraction")


@pytest.fixture(scope="module")
def five(params_with):
    return lambda **changes: params_with(preprocess__hospitals=list(FIVE), federation__rounds=2, **changes)


@pytest.fixture(scope="module")
def undisturbed(five, site_folders, tmp_path_factory):
    return federated(five(), site_folders, tmp_path_factory.mktemp("state"))[0]


def failing(names, kind, *, round, times=1):
    """These hospitals die when they are asked for this in this round, so many times in all."""
    left = {"times": times * len(names)}

    def spoil(name, request, response):
        if name in names and isinstance(request, kind) and request.session.round == round and left["times"]:
            left["times"] -= 1
            return "its process was ended by signal 9"
        return response

    return spoil


def told(result):
    return [(s.purpose, s.round, s.attempt, s.outcome, len(s.participants)) for s in result.sessions]


def test_a_run_goes_on_without_a_hospital_that_fails_and_takes_it_back(five, site_folders, tmp_path):
    spoil = failing(["hill"], m.Train, round=2)
    result, channel = federated(five(), site_folders, tmp_path / "masked", spoil=spoil)
    assert told(result) == [
        ("statistics", 0, 1, "finished", 5),
        ("train", 1, 1, "finished", 5),
        ("evaluate", 1, 1, "finished", 5),
        ("train", 2, 1, "finished", 4),
        ("evaluate", 2, 1, "finished", 5),
    ]
    assert result.sessions[3].dropped == {"hill": "its process was ended by signal 9"}
    assert [record.participants for record in result.records] == [5, 4]
    assert channel.restarted == ["hill"]
    clear, _ = federated(
        five(secure_aggregation__scheme="none"),
        site_folders,
        tmp_path / "clear",
        spoil=failing(["hill"], m.Train, round=2),
    )
    assert clear.digest == result.digest
    assert told(clear) == told(result)


def test_a_session_without_enough_hospitals_is_repeated_with_fresh_keys(five, undisturbed, site_folders, tmp_path):
    spoil = failing(["hill", "west"], m.Consistency, round=1)
    result, channel = federated(five(), site_folders, tmp_path, spoil=spoil)
    assert result.digest == undisturbed.digest
    assert told(result)[1:3] == [("train", 1, 1, "repeated", 0), ("train", 1, 2, "finished", 5)]
    assert set(result.sessions[1].dropped) == {"hill", "west"}
    keys = [
        r.keys for name, r in channel.asked if name == "north" and isinstance(r, m.ShareKeys) and r.session.round == 1
    ]
    assert len({key.mask for advert in keys for key in advert}) == 3 * 5  # train, its repetition, evaluate


def test_a_session_that_fails_twice_stops_the_run_until_the_same_command_resumes_it(
    five, undisturbed, site_folders, tmp_path
):
    spoil = failing(["hill", "west"], m.Train, round=2, times=2)
    with pytest.raises(FederationError, match=r"3 of 5 hospitals are left in train of round 2.*signal 9.*failed twice"):
        federated(five(), site_folders, tmp_path, spoil=spoil)
    seen = []
    result, _ = federated(five(), site_folders, tmp_path, on_round=seen.append)
    assert [record.round for record in seen] == [2]
    assert result.digest == undisturbed.digest
    assert told(result)[3:6] == [
        ("train", 2, 1, "repeated", 0),
        ("train", 2, 2, "failed", 0),
        ("train", 2, 3, "finished", 5),
    ]


def test_a_hospital_that_never_comes_back_leaves_the_others_to_finish(five, site_folders, tmp_path):
    class Lost(InProcessChannel):
        def restart(self, name):
            self.restarted.append(name)  # still down

    channel = Lost(make_sites(site_folders, tmp_path, FIVE), spoil=failing(["lake"], m.Evaluate, round=1))
    result = make_coordinator(five(), channel, tmp_path).run()
    assert [outcome for *_, outcome, n in told(result) if n == 4] == ["finished"] * 3
    assert sorted(result.ledgers) == sorted(set(FIVE) - {"lake"})


def test_a_hospital_that_missed_the_statistics_takes_part_in_the_training(five, site_folders, tmp_path):
    results = [
        federated(
            five(secure_aggregation__scheme=scheme),
            site_folders,
            tmp_path / scheme,
            spoil=failing(["hill"], m.Statistics, round=0),
        )[0]
        for scheme in ("masking", "none")
    ]
    assert {result.digest for result in results} == {results[0].digest}
    assert [count for *_, count in told(results[0])] == [4, 5, 5, 5, 5]


def test_a_hospital_that_is_away_when_the_run_is_resumed_is_left_out(five, site_folders, tmp_path):
    class KilledError(Exception):
        pass

    def kill(record):
        raise KilledError

    with pytest.raises(KilledError):
        federated(five(), site_folders, tmp_path, on_round=kill)
    channel = InProcessChannel(make_sites(site_folders, tmp_path, FIVE))
    channel.down["hill"] = "its process was ended by signal 9"
    result = make_coordinator(five(), channel, tmp_path).run()
    assert len(result.records) == 2
    with pytest.raises(FederationError, match="No usable answer to the first question"):  # a new run needs everybody
        channel = InProcessChannel(make_sites(site_folders, tmp_path, FIVE))
        channel.down["hill"] = "its process was ended by signal 9"
        make_coordinator(five(), channel, tmp_path)


def refusing(names, kind):
    def spoil(name, request, response):
        if name in names and isinstance(request, kind):
            return m.Refusal(kind="data", reason="the images are being moved.")
        return response

    return spoil


def test_a_single_refusal_is_recorded_and_the_run_goes_on(five, site_folders, tmp_path):
    result, channel = federated(five(), site_folders, tmp_path, spoil=refusing(["hill"], m.Train))
    assert [record.participants for record in result.records] == [4, 4]
    reason = "Hospital hill refuses Train (train of round 1, attempt 1): the images are being moved."
    assert result.sessions[1].dropped == {"hill": reason}
    assert channel.restarted == []  # it lives


def test_refusals_that_leave_too_few_end_the_run_with_their_kind_and_are_not_asked_twice(five, site_folders, tmp_path):
    spoil = refusing(["hill", "west"], m.Train)
    with pytest.raises(DataError, match=r"Hospital hill refuses Train .*being moved.*Hospital west refuses Train"):
        federated(five(), site_folders, tmp_path, spoil=spoil)
    folder = next((tmp_path / "federation").iterdir())
    last = json.loads((folder / "rounds.jsonl").read_text().splitlines()[-1])
    assert (last["purpose"], last["attempt"], last["outcome"]) == ("train", 1, "failed")


def test_a_killed_session_whose_sum_was_opened_is_asked_again_of_exactly_its_survivors(five, site_folders, tmp_path):
    class KilledError(Exception):
        pass

    dying, asked = failing(["hill"], m.Train, round=2), []

    def spoil(name, request, response):
        if isinstance(request, m.Unmask) and (request.session.purpose, request.session.round) == ("train", 2):
            asked.append(name)
            if len(asked) == 4:  # all survivors have written down that this sum is given away
                raise KilledError
        return dying(name, request, response)

    with pytest.raises(KilledError):
        federated(five(), site_folders, tmp_path / "killed", spoil=spoil)
    result, _ = federated(five(), site_folders, tmp_path / "killed")
    assert told(result)[3:5] == [("train", 2, 2, "repeated", 0), ("train", 2, 3, "finished", 4)]
    assert "was unmasked for lake, north, river, west" in result.sessions[3].dropped["north"]
    other, _ = federated(five(), site_folders, tmp_path / "other", spoil=failing(["hill"], m.Train, round=2))
    assert result.digest == other.digest


def test_a_hospital_that_deals_false_shares_is_named(five, site_folders, tmp_path):
    def spoil(name, request, response):
        if isinstance(request, m.ShareKeys) and name == "hill" and request.session.purpose == "train":
            wrong = {holder: bytes(64) for holder in response.sealed.commitments}
            return response.model_copy(update={"sealed": response.sealed.model_copy(update={"commitments": wrong})})
        return response

    with pytest.raises(FederationError, match=r"The masks of hill cannot be removed.*failed twice"):
        federated(five(), site_folders, tmp_path, spoil=spoil)


def test_a_hospital_that_signs_something_else_is_left_out_of_the_repetition(five, site_folders, tmp_path):
    def spoil(name, request, response):
        here = name == "hill" and isinstance(request, m.Consistency) and request.session.round == 1
        return response.model_copy(update={"signature": bytes(64)}) if here else response

    result, _ = federated(five(), site_folders, tmp_path, spoil=spoil)
    assert told(result)[1:3] == [("train", 1, 1, "repeated", 0), ("train", 1, 2, "finished", 4)]
    assert "hill" not in result.sessions[2].participants
    assert "hill" in result.sessions[-1].participants
