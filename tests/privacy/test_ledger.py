import json
import logging
import multiprocessing
import os
import stat
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import PrivacyError
from primia.privacy.accounting import Release
from primia.privacy.composition import epsilon_of_run
from primia.privacy.ledger import Ledger
from primia.privacy.ledger_line import Entry, _seal

RELEASE = Release(sampling_rate=0.25, noise_multiplier=1.2, steps=2)
WORST = Release(0.25, 1.1, 2)  # of `filled`


def charge(ledger, *, run="a", round=1, attempt=1, release=RELEASE, delta=1e-4, group="training", purpose="train"):
    return ledger.charge(
        run=run,
        hospital="north",
        group=group,
        purpose=purpose,
        round=round,
        attempt=attempt,
        release=release,
        delta=delta,
        synthetic=True,
    )


def releases(ledger, run=None):
    """What counts for `run`: its entries, and those of which nobody knows whose they are."""
    return [entry.release for entry in ledger.entries() if run is None or entry.run in (run, None)]


def filled(folder, rounds=5):
    ledger = Ledger(folder / "north.jsonl")
    for number in range(1, rounds + 1):
        charge(ledger, round=number, release=Release(0.25, 1.0 + number / 10, 2))
    return ledger


def test_a_charge_is_on_the_disk_when_it_returns(tmp_path, monkeypatch):
    synced = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (real(descriptor), synced.append(os.fstat(descriptor))))
    ledger = Ledger(tmp_path / "state" / "north.jsonl")
    head = charge(ledger, run="b", round=3, attempt=2, group="validation", purpose="validation")
    assert head == ledger.head()
    line = json.loads(ledger.path.read_text())
    assert (line["run"], line["round"], line["attempt"], line["delta"], line["synthetic"]) == ("b", 3, 2, 1e-4, True)
    assert line["release"] == asdict(RELEASE)
    assert (line["version"], line["source"], line["hospital"], line["group"], line["purpose"]) == (
        2,
        "north",
        "north",
        "validation",
        "validation",
    )
    kept = ledger.path.stat()
    assert (synced[-1].st_ino, synced[-1].st_size) == (kept.st_ino, kept.st_size), "synced after the line was written"
    assert ledger.path.parent.stat().st_ino in [status.st_ino for status in synced]
    assert stat.S_IMODE(kept.st_mode) == 0o600


def test_an_entry_is_read_as_it_was_charged(tmp_path):
    ledger = Ledger(tmp_path / "l.jsonl")
    assert ledger.entries() == []
    charge(ledger, attempt=1)
    charge(ledger, run="other", round=7, attempt=3, release=Release(1.0, 5.0, 1), group="validation", delta=1e-5)
    assert ledger.entries() == [
        Entry(RELEASE, "a", "north", "training", "train", 1, 1, 1e-4, True),
        Entry(Release(1.0, 5.0, 1), "other", "north", "validation", "train", 7, 3, 1e-5, True),
    ]
    assert ledger.verify() == 2


def test_the_lines_of_one_hospital_in_one_run_are_those_of_the_file(tmp_path):
    ledger = filled(tmp_path, rounds=2)
    charge(ledger, run="other")
    lines = ledger.path.read_text().splitlines(keepends=True)
    assert ledger.lines(run="a", hospital="north") == "".join(lines[:2])
    assert ledger.lines(run="other", hospital="north") == lines[2]
    assert ledger.lines(run="a", hospital="hill") == ""


def harmed(ledger, change):
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(change(lines)))


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b"1.3", b"9.3"), *lines[3:]], 3),
        (lambda lines: [*lines[:2], b"garbage\n", *lines[3:]], 3),
        (lambda lines: [*lines[:4], lines[4].replace(b'"round": 5', b'"round": 6')], 5),
        (lambda lines: [*lines[:4], b"garbage\n"], 5),
        (lambda lines: lines[1:], 1),
        (lambda lines: [*lines[:2], *lines[3:]], 3),
        (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2),
        (lambda lines: [*lines, lines[4]], 6),
        (lambda lines: [*lines[:3], b"\n", *lines[3:]], 4),
    ],
    ids=["edited", "garbled", "last edited", "last garbled", "first gone", "gone", "swapped", "repeated", "inserted"],
)
def test_a_changed_ledger_is_noticed_at_the_line_and_takes_no_more_charges(tmp_path, change, number):
    ledger = filled(tmp_path)
    harmed(ledger, change)
    before = ledger.path.read_bytes()
    for use in (ledger.verify, ledger.entries, lambda: charge(ledger)):
        with pytest.raises(PrivacyError, match=f"was changed: line {number} "):
            use()
    assert ledger.path.read_bytes() == before


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_byte_of_a_line_that_others_follow_can_change_unnoticed(tmp_path_factory, data):
    ledger = filled(tmp_path_factory.mktemp("ledger"), rounds=3)
    content = bytearray(ledger.path.read_bytes())
    position = data.draw(st.integers(0, content.rindex(b"\n", 0, -1)))
    content[position] ^= data.draw(st.integers(1, 255))
    ledger.path.write_bytes(content)
    with pytest.raises(PrivacyError, match="was changed"):
        ledger.verify()


def test_lines_missing_at_the_end_show_against_a_head_kept_elsewhere(tmp_path):
    ledger = filled(tmp_path)
    head = ledger.head()
    charge(ledger, round=6)
    ledger.verify(head=head)
    harmed(ledger, lambda lines: lines[:4])
    ledger.verify()
    with pytest.raises(PrivacyError, match=r"holds 4 lines, but not those that are known .* rolled back"):
        ledger.verify(head=head)


def test_a_last_line_cut_at_any_byte_counts_as_spent_and_charging_goes_on(tmp_path):
    ledger = filled(tmp_path, rounds=3)
    content = ledger.path.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    last = Release(0.25, 1.3, 2)
    for kept in range(start + 1, len(content)):
        ledger.path.write_bytes(content[:kept])
        counted = releases(ledger, "a")
        # What it was is known once the release is readable; before that it counts as no less than any other.
        assert counted == [Release(0.25, 1.1, 2), Release(0.25, 1.2, 2), last if b"}" in content[start:kept] else WORST]
        assert len(releases(ledger, "another run")) == (0 if kept == len(content) - 1 else 1)
        ledger.verify()
        charge(ledger, round=4)
        charge(ledger, round=5)
        assert ledger.verify() == 5
        assert releases(ledger, "a") == [*counted, RELEASE, RELEASE]
        assert ledger.path.read_bytes().startswith(content[:kept] + b"\n"), "the torn line stays as evidence"


def test_the_reader_says_so_and_takes_an_unknown_first_line_for_unprotected(tmp_path, caplog):
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.path.write_bytes(b'{"rel')
    with caplog.at_level(logging.WARNING):
        assert epsilon_of_run(ledger.entries(), "a", delta=1e-4) > 50
    assert "line 1" in caplog.text
    assert "cut short; counted as spent" in caplog.text


def test_two_lines_cut_short_in_a_row_count_twice(tmp_path):
    ledger = filled(tmp_path, rounds=2)
    ledger.path.write_bytes(ledger.path.read_bytes() + b'{"release": {"noi\n{"rel')
    assert len(ledger.entries()) == 4
    charge(ledger)
    assert len(ledger.entries()) == 5
    ledger.verify()


def _charge_often(path, run):
    for number in range(10):
        charge(Ledger(path), run=run, round=number)


def test_processes_that_charge_at_once_do_not_break_the_chain(tmp_path):
    path = tmp_path / "l.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_charge_often, args=(path, run)) for run in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    Ledger(path).verify()
    assert [entry.run for entry in Ledger(path).entries() if entry.run == "a"] == ["a"] * 10
    assert len(Ledger(path).entries()) == 20


def test_a_ledger_that_cannot_be_written_stops_the_release(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivacyError, match="nothing was released"):
        charge(Ledger(tmp_path / "file" / "l.jsonl"))
    with pytest.raises(PrivacyError, match="δ is 1"):
        charge(Ledger(tmp_path / "l.jsonl"), delta=1.0)
    assert not (tmp_path / "l.jsonl").exists()


def test_a_ledger_under_the_name_of_another_source_is_refused(tmp_path):
    ledger = filled(tmp_path)
    other = Ledger(ledger.path.rename(tmp_path / "0123456789abcdef.jsonl"))
    for use in (other.verify, lambda: charge(other)):
        with pytest.raises(
            PrivacyError, match=r"0123456789abcdef.jsonl holds lines of the ledger of another source, north.jsonl;"
        ):
            use()


def rewritten(ledger, change):
    """The first line with another content, sealed as its writer would have."""
    told = json.loads(ledger.path.read_text().splitlines()[0])
    del told["digest"]
    ledger.path.write_bytes(_seal(change(told)) + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda told: {**told, "version": 3, "something": "new"},
        lambda told: {**told, "release": {**told["release"], "something": "new"}},
    ],
    ids=["version", "field of a release"],
)
def test_a_ledger_of_a_newer_version_is_refused(tmp_path, change):
    ledger = filled(tmp_path, rounds=1)
    rewritten(ledger, change)
    for use in (ledger.verify, lambda: charge(ledger)):
        with pytest.raises(PrivacyError, match=r"north.jsonl was written by a newer version of primia; install"):
            use()


@pytest.mark.parametrize(
    "change",
    [
        lambda told: {**told, "group": "nobody"},
        lambda told: {**told, "attempt": "1"},
        lambda told: {**told, "release": {**told["release"], "steps": 0}},
        lambda told: {**told, "release": {"steps": 1}},
        lambda told: {**told, "release": None},
        lambda told: {**told, "version": "2"},
        lambda told: {"release": told["release"]},
    ],
)
def test_a_line_that_nobody_would_write_is_damage_even_if_it_is_sealed(tmp_path, change):
    ledger = filled(tmp_path, rounds=1)
    rewritten(ledger, change)
    with pytest.raises(PrivacyError, match="was changed: line 1 "):
        ledger.verify()


def test_a_release_without_the_newest_fields_is_read_with_their_defaults(tmp_path):
    ledger = filled(tmp_path, rounds=1)
    rewritten(
        ledger,
        lambda told: {
            **told,
            "release": {name: told["release"][name] for name in ("sampling_rate", "noise_multiplier", "steps")},
        },
    )
    assert releases(ledger) == [Release(0.25, 1.1, 2)]
