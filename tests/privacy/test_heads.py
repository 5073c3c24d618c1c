import stat

import pytest

from primia.errors import PrivacyError
from primia.privacy.accounting import Release
from primia.privacy.heads import Heads
from primia.privacy.ledger import Ledger


def charge(ledger, round):
    return ledger.charge(
        run="a",
        hospital="north",
        group="training",
        purpose="train",
        round=round,
        attempt=1,
        release=Release(0.5, 1.0, 1),
        delta=1e-4,
        synthetic=False,
    )


def test_a_ledger_that_lost_lines_or_is_gone_is_noticed_and_one_that_grew_is_not(tmp_path):
    ledger, heads = Ledger(tmp_path / "l.jsonl"), Heads(tmp_path)
    heads.check(ledger)
    before = charge(ledger, 1)
    content = ledger.path.read_bytes()
    heads.keep(ledger, charge(ledger, 2))
    charge(ledger, 3)  # another hospital's
    Heads(tmp_path).check(ledger)
    assert ledger in Heads(tmp_path) and Heads(tmp_path).sources() == {"l"}
    assert stat.S_IMODE((tmp_path / "heads.json").stat().st_mode) == 0o600
    ledger.path.write_bytes(content)
    with pytest.raises(PrivacyError, match=r"l.jsonl holds 1 lines, but not those .* rolled back"):
        Heads(tmp_path).check(ledger)
    ledger.path.unlink()
    with pytest.raises(PrivacyError, match="holds 0 lines"):
        Heads(tmp_path).check(ledger)
    heads.keep(ledger, before)
    ledger.path.write_bytes(content)
    Heads(tmp_path).check(ledger)


def test_a_chain_written_anew_is_noticed(tmp_path):
    ledger, heads = Ledger(tmp_path / "l.jsonl"), Heads(tmp_path)
    heads.keep(ledger, charge(ledger, 1))
    ledger.path.unlink()
    for round in (2, 3):
        charge(ledger, round)
    ledger.verify()
    with pytest.raises(PrivacyError, match="written anew"):
        heads.check(ledger)


def test_other_ledgers_are_other_ledgers(tmp_path):
    first, second, heads = Ledger(tmp_path / "l.jsonl"), Ledger(tmp_path / "m.jsonl"), Heads(tmp_path)
    heads.keep(first, charge(first, 1))
    heads.check(second)
    heads.keep(second, charge(second, 1))
    assert Heads(tmp_path).sources() == {"l", "m"}


@pytest.mark.parametrize("content", ["{", "[]", '{"l": 1}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "heads.json").write_text(content)
    with pytest.raises(PrivacyError, match=r"heads.json is damaged; restore"):
        Heads(tmp_path)
