import json

import pytest

from primia.errors import PrivacyError
from primia.privacy.accounting import Release
from primia.privacy.former_ledger import take_over
from primia.privacy.ledger import Ledger
from primia.privacy.ledger_line import _seal

RELEASE = {"noise_multiplier": 1.2, "sampling_rate": 0.25, "steps": 2}


def former(folder, rounds=2):
    """A ledger as an earlier version wrote it."""
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.path.write_bytes(b"")
    for number in range(1, rounds + 1):
        told = {
            "release": RELEASE,
            "run": "run-0001",
            "round": number,
            "attempt": 1,
            "delta": 1e-3,
            "synthetic": False,
            "previous": ledger.head(),
        }
        ledger.path.write_bytes(ledger.path.read_bytes() + _seal(told) + b"\n")
    return ledger.path


def test_every_line_is_charged_and_the_old_file_stays_under_another_name(tmp_path):
    path, ledger = former(tmp_path), Ledger(tmp_path / "new.jsonl")
    content = path.read_bytes()
    assert take_over(path, ledger=ledger, hospital="north") == ledger.head()
    entries = ledger.entries()
    assert [(e.run, e.hospital, e.group, e.purpose, e.round, e.attempt, e.delta, e.synthetic) for e in entries] == [
        ("run-0001", "north", "training", "train", number, 1, 1e-3, False) for number in (1, 2)
    ]
    assert {entry.release for entry in entries} == {Release(**RELEASE)}
    assert not path.exists()
    assert (tmp_path / "ledger.taken-over.jsonl").read_bytes() == content
    assert take_over(path, ledger=ledger, hospital="north") is None
    assert len(ledger.entries()) == 2


def test_a_takeover_that_was_interrupted_is_finished_without_charging_twice(tmp_path):
    path, ledger = former(tmp_path, rounds=3), Ledger(tmp_path / "new.jsonl")
    path.write_bytes(path.read_bytes() + b'{"rel')
    content = path.read_bytes()
    take_over(path, ledger=ledger, hospital="north")
    path.write_bytes(content)  # as if it was killed before the old file had its new name
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    ledger.path.write_bytes(b"".join(lines[:2]))
    take_over(path, ledger=ledger, hospital="north")
    assert [json.loads(line)["round"] for line in ledger.path.read_text().splitlines()] == [1, 2, 3, 0]
    take_over(former(tmp_path, rounds=3), ledger=ledger, hospital="hill")
    assert len(ledger.entries()) == 7  # the patients of another hospital


def test_a_changed_ledger_is_not_taken_over(tmp_path):
    path, ledger = former(tmp_path), Ledger(tmp_path / "new.jsonl")
    path.write_bytes(path.read_bytes().replace(b"1.2", b"9.2", 1))
    with pytest.raises(PrivacyError, match=r"ledger.jsonl was changed: line 1 "):
        take_over(path, ledger=ledger, hospital="north")
    assert path.exists()
    assert not ledger.path.exists()
