import json
import logging
import multiprocessing
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import PrivacyError
from primia.privacy.accounting import Release, epsilon_of
from primia.privacy.ledger import Ledger

RELEASE = Release(sampling_rate=0.25, noise_multiplier=1.2, steps=2)


def charge(ledger, *, run="a", round=1, attempt=1, release=RELEASE, delta=1e-4):
    ledger.charge(run=run, round=round, attempt=attempt, release=release, delta=delta, synthetic=True)


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
    charge(ledger, run="b", round=3, attempt=2)
    line = json.loads(ledger.path.read_text())
    assert (line["run"], line["round"], line["attempt"], line["delta"], line["synthetic"]) == ("b", 3, 2, 1e-4, True)
    assert line["release"] == {"sampling_rate": 0.25, "noise_multiplier": 1.2, "steps": 2}
    kept = ledger.path.stat()
    assert (synced[-1].st_ino, synced[-1].st_size) == (kept.st_ino, kept.st_size), "synced after the line was written"
    assert ledger.path.parent.stat().st_ino in [status.st_ino for status in synced]
    assert stat.S_IMODE(kept.st_mode) == 0o600


def test_releases_and_epsilon_are_counted_by_run_and_over_all_runs(tmp_path):
    ledger = Ledger(tmp_path / "l.jsonl")
    assert ledger.releases() == []
    assert ledger.epsilon(delta=1e-4) == 0
    for attempt in (1, 2, 3):
        charge(ledger, attempt=attempt)
    charge(ledger, run="other", release=Release(1.0, 5.0, 1))
    assert ledger.releases("a") == [RELEASE] * 3
    assert ledger.releases() == [RELEASE] * 3 + [Release(1.0, 5.0, 1)]
    assert ledger.epsilon(run="a", delta=1e-4) == epsilon_of([Release(0.25, 1.2, 6)], delta=1e-4)
    assert ledger.epsilon(delta=1e-4) > ledger.epsilon(run="a", delta=1e-4)
    ledger.verify()


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
    for use in (ledger.verify, ledger.releases, lambda: ledger.epsilon(delta=1e-4), lambda: charge(ledger)):
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
    with pytest.raises(PrivacyError, match="ends after line 4, but more lines were known"):
        ledger.verify(head=head)


@given(cut=st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_a_line_cut_short_counts_as_spent_and_charging_goes_on(tmp_path_factory, cut):
    ledger = filled(tmp_path_factory.mktemp("ledger"), rounds=3)
    content = ledger.path.read_bytes()
    start = content.rindex(b"\n", 0, -1) + 1
    kept = min(start + cut, len(content) - 1)
    ledger.path.write_bytes(content[:kept])
    last = Release(0.25, 1.3, 2)
    counted = ledger.releases("a")
    assert len(counted) == 3
    # What it was is known once the release is readable; before that it counts as no less than any other.
    assert counted[2] == (last if b"}" in content[start:kept] else Release(0.25, 1.1, 2))
    assert len(ledger.releases("another run")) == (0 if kept == len(content) - 1 else 1)
    ledger.verify()
    charge(ledger, round=4)
    charge(ledger, round=5)
    ledger.verify()
    assert ledger.releases("a") == [*counted, RELEASE, RELEASE]
    assert ledger.path.read_bytes().startswith(content[:kept] + b"\n"), "the torn line stays as evidence"


def test_the_reader_says_so_and_takes_an_unknown_first_line_for_unprotected(tmp_path, caplog):
    ledger = Ledger(tmp_path / "l.jsonl")
    ledger.path.write_bytes(b'{"rel')
    with caplog.at_level(logging.WARNING):
        assert ledger.epsilon(run="a", delta=1e-4) > 50
    assert "line 1" in caplog.text
    assert "cut short; counted as spent" in caplog.text


def test_two_lines_cut_short_in_a_row_count_twice(tmp_path):
    ledger = filled(tmp_path, rounds=2)
    ledger.path.write_bytes(ledger.path.read_bytes() + b'{"release": {"noi\n{"rel')
    assert len(ledger.releases()) == 4
    charge(ledger)
    assert len(ledger.releases()) == 5
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
    assert len(Ledger(path).releases("a")) == len(Ledger(path).releases("b")) == 10


def test_a_ledger_that_cannot_be_written_stops_the_release(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivacyError, match="nothing was released"):
        charge(Ledger(tmp_path / "file" / "l.jsonl"))
    with pytest.raises(PrivacyError, match="δ is 1"):
        charge(Ledger(tmp_path / "l.jsonl"), delta=1.0)
    assert not (tmp_path / "l.jsonl").exists()
