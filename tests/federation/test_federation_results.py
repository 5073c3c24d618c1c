import json
from dataclasses import replace

import pytest
from federating import NAMES, federated

from primia.attacks.statement import read_statement
from primia.federation.results import write_results
from primia.secagg.countersigned import Countersigned


@pytest.fixture(scope="module")
def private(site_folders, params_with, tmp_path_factory):
    params = params_with(privacy__enabled=True, federation__rounds=2)
    return federated(params, site_folders, tmp_path_factory.mktemp("state"))[0]


def read(folder, name):
    return json.loads((folder / name).read_text())


def test_every_session_has_a_line(private, tmp_path):
    write_results(tmp_path, private)
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    assert [(line["purpose"], line["round"], line["outcome"]) for line in lines] == [
        ("statistics", 0, "finished"),
        ("train", 1, "finished"),
        ("evaluate", 1, "finished"),
        ("train", 2, "finished"),
        ("evaluate", 2, "finished"),
    ]
    assert all(line["participants"] == sorted(NAMES) and line["dropped"] == {} for line in lines)
    assert list(lines[1]["phases"]) == ["advertise", "share", "deliver", "masked_input", "consistency", "unmask"]
    assert lines[1]["phases"]["masked_input"]["bytes_up"] > 3 * 4 * 40_000
    assert lines[1]["clipped_fraction"] is not None and lines[1]["shrunk"] in range(4)
    assert lines[1]["training_loss"] is None  # differential privacy does not cover it
    assert read(tmp_path, "metrics.json")["secure_aggregation"] == "masking"


def test_the_largest_ledger_is_what_was_spent(private, tmp_path):
    write_results(tmp_path, private)
    privacy = read(tmp_path, "privacy.json")
    assert privacy["epsilon"] == max(ledger.epsilon for ledger in private.ledgers.values())
    assert privacy["unread_ledgers"] == []
    assert sorted(path.stem for path in (tmp_path / "ledger").glob("*.jsonl")) == sorted(NAMES)


def test_an_attacker_learns_from_the_file_how_it_was_trained(private, tmp_path):
    write_results(tmp_path, private)
    statement, plan = read_statement(tmp_path / "privacy.json"), private.plan
    assert plan.privacy is not None and statement.terms is not None and statement.synthetic is plan.synthetic
    said = statement.terms.model_dump()
    for name in ("trust", "local_steps", "views", "learning_rate", "expected_batch", "curious", "noise_multiplier"):
        assert said[name] == getattr(plan.privacy, name)
    assert (said["hospitals"], said["threshold"]) == (len(NAMES), plan.threshold)
    assert (said["epsilon"], said["steps"]) == (private.epsilon, 2 * plan.privacy.local_steps)


def test_a_training_without_privacy_states_no_terms(private, tmp_path):
    write_results(tmp_path, replace(private, plan=private.plan.model_copy(update={"privacy": None})))
    assert read_statement(tmp_path / "privacy.json").terms is None


def test_the_last_transcript_is_kept_for_an_audit_of_the_ledgers(private, tmp_path):
    write_results(tmp_path, private)
    kept = Countersigned.model_validate_json((tmp_path / "ledger" / "transcript.json").read_bytes())
    assert kept == private.transcript
    assert (kept.session.purpose, kept.session.round, sorted(kept.signatures)) == ("evaluate", 2, sorted(NAMES))


def test_a_ledger_that_could_not_be_read_counts_as_spent_to_the_target(private, tmp_path):
    heard = {name: ledger for name, ledger in private.ledgers.items() if name != "hill"}
    write_results(tmp_path, replace(private, ledgers=heard))
    privacy = read(tmp_path, "privacy.json")
    assert privacy["epsilon"] == 8.0
    assert privacy["epsilon_all_runs"] is None  # nobody knows, so the clinical gate fails
    assert privacy["unread_ledgers"] == ["hill"]
