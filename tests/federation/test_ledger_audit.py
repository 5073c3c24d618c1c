"""What an auditor finds: `primia ledger show` and `primia ledger verify` after two real runs."""

import json
import re
import shutil

import pytest
from federating import NAMES, PATIENTS, federated, write_sites
from typer.testing import CliRunner

from primia.cli import app
from primia.errors import PrimiaError
from primia.federation.results import write_results
from primia.privacy.accounting import Release
from primia.privacy.ledger import Ledger

LEDGER = f"{PATIENTS.fingerprint[:16]}.jsonl"


@pytest.fixture(scope="module")
def ran(params_with, tmp_path_factory):
    """Two private runs on patients' images: state and results of both."""
    folder = tmp_path_factory.mktemp("ran")
    for name in NAMES:
        (folder / "state" / "sites" / name).mkdir(parents=True)
        (folder / "state" / "sites" / name / "floors.json").write_text('{"lifetime_epsilon": 50.0}')
    sites = write_sites(folder / "data", origin=PATIENTS)
    for run, rate in (("first", 0.1), ("second", 0.2)):
        params = params_with(
            ingest__source="image_folder",
            ingest__folder="mine",
            preprocess__dealing="iid",
            privacy__enabled=True,
            privacy__sampling_rate=1.0,
            privacy__learning_rate=rate,
            federation__rounds=2,
        )
        write_results(folder / run, federated(params, sites, folder / "state")[0])
    return folder


@pytest.fixture
def audited(ran, tmp_path, monkeypatch):
    """A copy of it all, to be tampered with."""
    folder = tmp_path / "copy"
    shutil.copytree(ran, folder)
    monkeypatch.setenv("PRIMIA_STATE", str(folder / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return folder


def ledger(*arguments):
    """What the command printed; its exit status is 1 where it raises."""
    answer = CliRunner().invoke(app, ["ledger", *map(str, arguments)])
    if answer.exception is not None:
        raise answer.exception
    return answer.output


def lines_of(folder):
    return (folder / "state" / "ledgers" / LEDGER).read_text().splitlines(keepends=True)


def keep(folder, lines):
    (folder / "state" / "ledgers" / LEDGER).write_text("".join(lines))


def forget(folder):
    """The hospitals' own memory goes as well, as when a whole machine is set back."""
    for name in NAMES:
        heads = folder / "state" / "sites" / name / "heads.json"
        (line,) = json.loads(heads.read_text())
        heads.write_text(json.dumps({line: json.loads(lines_of(folder)[0])["previous"]}))


def test_a_whole_ledger_is_found_whole(audited):
    for path in ([], [audited / "state" / "ledgers" / LEDGER], ["--source", PATIENTS.fingerprint]):
        said = ledger("verify", *path)
        assert "the chain of 30 lines is whole, and as far as hill, north, river remember." in said
    for run in ("first", "second"):
        said = ledger("verify", "--transcript", audited / run / "ledger" / "transcript.json")
        assert "as far as was countersigned in evaluate of round 2" in said


def test_the_table_tells_what_every_run_spent(audited):
    said = ledger("show")
    privacy = [json.loads((audited / run / "privacy.json").read_text()) for run in ("first", "second")]
    table = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    first, *others = ([row for row in table if purpose in row] for purpose in ("statistics", "train", "validation"))
    assert [row[-1] for row in first] == [f"{told['epsilon']:.3f}" for told in privacy]
    for rows, noise in zip(others, ("noise_multiplier", "validation_noise"), strict=True):
        for row, told in zip(rows, privacy, strict=True):
            assert row[1:] == ["hill, north, river", "2", "2", "2", f"{told[noise]:.4g}", "1"]
    assert ["all runs together", f"{privacy[1]['epsilon_all_runs']:.3f}"] in table
    assert "synthetic" not in said


@pytest.mark.parametrize("synthetic", [False, True])
def test_the_table_cuts_no_word_on_a_narrow_terminal_and_marks_phantoms(tmp_path, monkeypatch, synthetic):
    monkeypatch.setenv("COLUMNS", "80")
    spent = Ledger(tmp_path / "ledger.jsonl")
    for hospital in NAMES:
        for group, purpose in (("training", "statistics"), ("training", "train"), ("validation", "validation")):
            spent.charge(
                run="fda1e5f7faa4bced-97b89ade",
                hospital=hospital,
                group=group,
                purpose=purpose,
                round=1,
                attempt=1,
                release=Release(noise_multiplier=1.875, sampling_rate=0.5, steps=4),
                delta=1e-4,
                synthetic=synthetic,
            )
    said = ledger("show", spent.path)
    assert max(map(len, said.splitlines())) <= 80
    words = said.replace(",", "").split()
    for word in ("purpose", "hospitals", "rounds", "attempts", "statistics", "validation", "together", *NAMES):
        assert word in words
    assert words.count("synthetic") == (2 if synthetic else 0)  # the run, and all runs together


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda lines: [lines[0].replace('"round": 0', '"round": 2'), *lines[1:]], "was changed: line 1 "),
        (lambda lines: lines[:5] + lines[6:], "was changed: line 6 "),
        (lambda lines: lines[:-1], "rolled back"),
        (lambda lines: lines[:-3], "rolled back"),
        (lambda lines: [], "holds 0 lines, but not those that are known"),
    ],
)
def test_every_edit_is_found(audited, change, sentence):
    keep(audited, change(lines_of(audited)))
    with pytest.raises(PrimiaError, match=sentence):
        ledger("verify")


def test_a_ledger_that_is_gone_is_missed(audited):
    (audited / "state" / "ledgers" / LEDGER).unlink()
    with pytest.raises(PrimiaError, match="holds 0 lines, but not those that are known"):
        ledger("verify")


def test_a_hospital_that_was_set_back_with_its_memory_is_found_by_what_others_signed(audited):
    transcript = audited / "second" / "ledger" / "transcript.json"
    forget(audited)
    ledger("verify", "--transcript", transcript)
    keep(audited, lines_of(audited)[:15])  # the second run never was
    ledger("verify")
    ledger("verify", "--transcript", audited / "first" / "ledger" / "transcript.json")
    with pytest.raises(PrimiaError, match=r"holds 15 lines, but not those .* rolled back"):
        ledger("verify", "--transcript", transcript)


def test_a_transcript_that_was_edited_or_is_none_is_refused(audited):
    transcript = audited / "second" / "ledger" / "transcript.json"
    told = json.loads(transcript.read_text())
    told["keys"][0]["ledger"] = told["keys"][0]["channel"]
    transcript.write_text(json.dumps(told))
    with pytest.raises(PrimiaError, match="not signed by its pinned identity"):
        ledger("verify", "--transcript", transcript)
    transcript.write_text("{}")
    with pytest.raises(PrimiaError, match="is no transcript"):
        ledger("verify", "--transcript", transcript)


def test_a_transcript_about_another_ledger_says_so(audited):
    other = "0123456789abcdef"
    for name in NAMES:
        heads = audited / "state" / "sites" / name / "heads.json"
        told = json.loads(heads.read_text())
        heads.write_text(json.dumps({**told, other: json.loads(lines_of(audited)[0])["previous"]}))
    (audited / "state" / "ledgers" / f"{other}.jsonl").write_text("")
    transcript = audited / "second" / "ledger" / "transcript.json"
    with pytest.raises(PrimiaError, match=f"is of a run on another source; hold it against .*{LEDGER} instead"):
        ledger("verify", "--source", other, "--transcript", transcript)
    for name in NAMES:
        (audited / "state" / "sites" / name / "heads.json").unlink()
    with pytest.raises(PrimiaError, match=r"names no hospital in .* that keeps"):
        ledger("verify", "--source", PATIENTS.fingerprint, "--transcript", transcript)


def test_a_ledger_that_does_not_exist_is_named(audited):
    for path in (["nowhere.jsonl"], ["--source", "f" * 64]):
        with pytest.raises(PrimiaError, match="There is no ledger"):
            ledger("show", *path)


def test_an_excerpt_in_the_results_is_not_taken_for_a_ledger(audited):
    with pytest.raises(PrimiaError, match=r"north.jsonl holds lines of the ledger of another source, 2{16}.jsonl"):
        ledger("verify", audited / "second" / "ledger" / "north.jsonl")
