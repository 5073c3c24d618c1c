"""What patients may spend outlives a run, another dealing and another set of hyper-parameters."""

import json
import math

import pytest
from federating import (
    FIVE,
    NAMES,
    PATIENTS,
    PHANTOMS,
    InProcessChannel,
    Joined,
    calibrated,
    federated,
    make_site,
    make_sites,
    restarted,
    write_sites,
)

from primia.data.origin import write_origin
from primia.errors import DataError, PrivacyError, SiteRefusal
from primia.federation import messages as m
from primia.federation.refusals import BudgetError
from primia.privacy.accounting import Release
from primia.privacy.gaussian import gaussian_epsilon
from primia.privacy.ledger import Ledger
from primia.privacy.ledger_line import _seal

ROUNDS = 2
LEDGER = f"{PATIENTS.fingerprint[:16]}.jsonl"


@pytest.fixture(scope="module")
def real(params_with):
    """Parameters of private runs on patients' images."""
    return lambda **changes: params_with(
        **{
            "ingest__source": "image_folder",
            "ingest__folder": "mine",
            "preprocess__dealing": "iid",
            "privacy__enabled": True,
            "federation__rounds": ROUNDS,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    return write_sites(tmp_path_factory.mktemp("patients"), origin=PATIENTS)


def spent_by(params, *runs):
    """ε of runs of `params` of so many rounds each: all sums are over everybody here, so squares of μ add up."""
    plan = calibrated(params.privacy, params.federation.rounds)

    def worse_group(rounds):
        trained = rounds / plan.noise_multiplier**2 + 1 / plan.statistics_noise**2
        return max(trained, rounds / plan.validation_noise**2)

    return gaussian_epsilon(math.sqrt(sum(map(worse_group, runs))), delta=params.privacy.delta)


def own(state, names=NAMES, **floors):
    for name in names:
        (state / "sites" / name).mkdir(parents=True, exist_ok=True)
        (state / "sites" / name / "floors.json").write_text(json.dumps({"lifetime_delta": 1e-3, **floors}))


def test_a_second_run_ends_with_the_last_model_that_the_patients_can_afford(real, patients, tmp_path):
    params = real()
    between = (spent_by(params, 2, 1) + spent_by(params, 2, 2)) / 2
    own(tmp_path, lifetime_epsilon=between)
    first, _ = federated(params, patients, tmp_path)
    assert len(first.records) == ROUNDS and first.stopped is None
    # Another learning rate is another run, but the patients are the same.
    second, _ = federated(real(privacy__learning_rate=0.1), patients, tmp_path)
    assert [record.round for record in second.records] == [1]
    assert second.model.round == 1
    assert "that this hospital's patients may spend in all runs together" in second.stopped
    assert f"{spent_by(params, 2, 1):.3f} is spent" in second.stopped
    assert f"{between - spent_by(params, 2, 1):.3f} is left" in second.stopped
    assert "only the hospital's owner can change that, by lifetime_epsilon in" in second.stopped
    for report in second.ledgers.values():
        assert report.epsilon == pytest.approx(spent_by(params, 1))
        assert report.epsilon_all_runs == pytest.approx(spent_by(params, 2, 1))
    with pytest.raises(BudgetError, match="may spend in all runs together"):
        federated(real(privacy__learning_rate=0.2), patients, tmp_path)
    entries = Ledger(tmp_path / "ledgers" / LEDGER).entries()
    # Two rounds of the first run and one of the second, with their statistics; the third never got beyond these.
    assert len(entries) == 3 * (5 + 3 + 1) and not any(entry.synthetic for entry in entries)
    own(tmp_path, lifetime_epsilon=spent_by(params, 2, 1, 2))
    third, _ = federated(real(privacy__learning_rate=0.2), patients, tmp_path)
    assert len(third.records) == 2


def test_patients_dealt_to_other_hospitals_and_at_another_size_stay_the_same_patients(real, tmp_path):
    own(tmp_path, FIVE, lifetime_epsilon=spent_by(real(), 2) + 0.01, allow_newcomers=True)
    federated(real(), write_sites(tmp_path / "dealt", origin=PATIENTS), tmp_path)
    more = PATIENTS.model_copy(update={"fingerprint": "3" * 64, "marks": PATIENTS.marks | {"c" * 16}})
    again = write_sites(tmp_path / "again", ["hill", "lake", "west"], origin=more)
    with pytest.raises(BudgetError, match="may spend in all runs together"):
        federated(real(preprocess__hospitals=["hill", "lake", "west"]), again, tmp_path)
    others = PATIENTS.model_copy(update={"fingerprint": "4" * 64, "marks": frozenset({"d" * 16})})
    result, _ = federated(real(), write_sites(tmp_path / "others", ("river", "north", "hill"), origin=others), tmp_path)
    assert len(result.records) == 2
    assert len(list((tmp_path / "ledgers").glob("*.jsonl"))) == 2


def test_the_default_lifetime_allows_one_run_of_the_default_target_and_no_second(real, patients, tmp_path):
    federated(real(), patients, tmp_path)
    with pytest.raises(BudgetError, match=r"of the 10 \(at delta 0.0001\)"):
        federated(real(privacy__learning_rate=0.1), patients, tmp_path)


def test_phantoms_are_recorded_and_never_refused(params_with, site_folders, tmp_path):
    own(tmp_path, lifetime_epsilon=0.5)
    params = params_with(privacy__enabled=True, privacy__sampling_rate=1.0, federation__rounds=ROUNDS)
    for _ in range(2):
        result, _ = federated(params, site_folders, tmp_path)
        assert result.stopped is None and len(result.records) == ROUNDS
    for report in result.ledgers.values():
        assert report.epsilon_all_runs == pytest.approx(spent_by(params, 2, 2))
    entries = Ledger(tmp_path / "ledgers" / f"{PHANTOMS.fingerprint[:16]}.jsonl").entries()
    assert len(entries) == 30 and all(entry.synthetic for entry in entries)


def test_phantoms_before_cost_patients_nothing(real, params_with, site_folders, patients, tmp_path):
    federated(params_with(privacy__enabled=True, federation__rounds=ROUNDS), site_folders, tmp_path)
    result, _ = federated(real(), patients, tmp_path)
    assert {report.epsilon_all_runs for report in result.ledgers.values()} == {result.records[-1].epsilon}


def test_only_the_lines_of_this_run_and_this_hospital_leave_it(real, patients, tmp_path):
    own(tmp_path, lifetime_epsilon=100.0)
    first, _ = federated(real(), patients, tmp_path)
    second, _ = federated(real(privacy__learning_rate=0.1), patients, tmp_path)
    for name, report in second.ledgers.items():
        lines = [json.loads(line) for line in report.text.splitlines()]
        assert {(line["run"], line["hospital"]) for line in lines} == {(second.plan.run, name)}
        assert [(line["purpose"], line["round"]) for line in lines] == [
            ("statistics", 0),
            ("train", 1),
            ("validation", 1),
            ("train", 2),
            ("validation", 2),
        ]
        assert first.plan.run not in report.text


def test_a_coordinator_that_calls_patients_phantoms_is_refused(params_with, patients, tmp_path):
    with pytest.raises(SiteRefusal, match="The plan takes all images for phantoms, but this hospital's show patients"):
        federated(params_with(privacy__enabled=True), patients, tmp_path)


def test_a_run_that_spent_the_rest_at_the_same_time_is_noticed_before_noise_is_drawn(real, patients, tmp_path):
    params = real()
    own(tmp_path, lifetime_epsilon=(spent_by(params, 1) + spent_by(params, 2)) / 2)
    joined = Joined(params, InProcessChannel(make_sites(patients, tmp_path)), tmp_path)
    talk = joined.conversation(joined.train())
    talk.through(talk.deliver)
    account = joined.channel.sites["north"]._account
    checked = account.check

    def check_then_spend(*args, **kwargs):
        checked(*args, **kwargs)
        account.ledger.charge(
            run="another-run",
            hospital="lake",
            group="training",
            purpose="train",
            round=1,
            attempt=1,
            release=Release(1.0, joined.plan.privacy.noise_multiplier, 1),
            delta=1e-3,
            synthetic=False,
        )

    object.__setattr__(account, "check", check_then_spend)
    answer = talk.tell({"north": talk.request})["north"]
    assert isinstance(answer, m.Refusal) and answer.kind == "budget"


def test_a_ledger_that_was_rolled_back_is_noticed_at_the_start_and_in_a_session(real, patients, tmp_path):
    own(tmp_path, lifetime_epsilon=100.0)
    joined = Joined(real(), InProcessChannel(make_sites(patients, tmp_path)), tmp_path)
    path = tmp_path / "ledgers" / LEDGER
    talk = joined.conversation(joined.train())
    talk.through(talk.answer)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))  # hill's charge
    with pytest.raises(PrivacyError, match="rolled back"):
        joined.channel.sites["hill"].answer(m.AdvertiseKeys(session=joined.session("train", attempt=2)))
    with pytest.raises(PrivacyError, match="rolled back"):
        restarted(joined.channel.sites["hill"])
    restarted(joined.channel.sites["north"])  # its own line is still there


def test_the_ledger_of_an_earlier_version_is_taken_over(real, patients, tmp_path):
    (tmp_path / "sites" / "north").mkdir(parents=True)
    former = tmp_path / "sites" / "north" / "ledger.jsonl"
    former.write_bytes(b'{"release": {"noise_multiplier": 1.0, "sampling_rate": 0.5, "steps": 3}, "ru')
    site = make_site(patients, tmp_path, "north")
    assert not former.exists()
    (entry,) = Ledger(tmp_path / "ledgers" / LEDGER).entries()
    assert (entry.release, entry.hospital) == (Release(0.5, 1.0, 3), "north")
    restarted(site)


def test_phantoms_of_an_earlier_version_cost_patients_nothing(real, patients, tmp_path):
    release = {"noise_multiplier": 0.1, "sampling_rate": 1.0, "steps": 9}
    told = {"release": release, "run": "before", "round": 1, "attempt": 1, "delta": 1e-3, "synthetic": True}
    path = tmp_path / "sites" / "north" / "ledger.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(_seal({**told, "previous": Ledger(path).head()}) + b"\n")
    result, _ = federated(real(), patients, tmp_path)
    assert result.ledgers["north"].epsilon_all_runs == result.records[-1].epsilon
    assert "before" in (tmp_path / "ledgers" / LEDGER).read_text()


def test_hospitals_without_an_origin_do_not_start(patients, tmp_path):
    folder = write_sites(tmp_path / "sites", NAMES[:1])
    (folder / "north" / "origin.json").unlink()
    with pytest.raises(DataError, match=r"origin.json is missing, so it is unknown whose privacy"):
        make_site(folder, tmp_path, "north")
    write_origin(folder / "north", PATIENTS)
    make_site(folder, tmp_path, "north")
