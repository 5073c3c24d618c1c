import multiprocessing
import stat

import pytest

from primia.data.origin import Origin
from primia.errors import PrivacyError
from primia.privacy.known_sources import ledger_of


def source(number, *marks, synthetic=False):
    return Origin(fingerprint=f"{number:064x}"[::-1], synthetic=synthetic, marks=frozenset(f"{m:016x}" for m in marks))


def test_the_same_source_has_the_same_ledger_and_another_one_another(tmp_path):
    first = ledger_of(source(1, 10, 11), tmp_path)
    assert first.path == tmp_path / f"{source(1).fingerprint[:16]}.jsonl"
    assert ledger_of(source(1, 10, 11), tmp_path).path == first.path
    assert ledger_of(source(2, 20, 21), tmp_path).path != first.path


def test_a_source_that_grew_shrank_or_was_exported_anew_goes_on_with_its_ledger(tmp_path, caplog):
    first = ledger_of(source(1, 10, 11), tmp_path)
    assert ledger_of(source(2, 10, 11, 12), tmp_path).path == first.path  # one more file
    assert "2 images and patients of this source stand in ledger" in caplog.text
    assert ledger_of(source(3, 12), tmp_path).path == first.path  # only what was added
    assert ledger_of(source(4, 11, 40, 41), tmp_path).path == first.path  # other images of one known patient
    assert ledger_of(source(5, 41), tmp_path).path == first.path


def test_a_source_with_patients_of_two_ledgers_is_refused_with_both(tmp_path):
    ledgers = [ledger_of(source(1, 10), tmp_path), ledger_of(source(2, 20), tmp_path)]
    with pytest.raises(PrivacyError) as error:
        ledger_of(source(3, 10, 20), tmp_path)
    assert all(str(ledger.path) in str(error.value) for ledger in ledgers)
    assert ledger_of(source(1, 10), tmp_path).path == ledgers[0].path


def test_phantoms_are_told_apart_by_fingerprint_alone(tmp_path):
    ledgers = {ledger_of(source(number, synthetic=True), tmp_path / "new").path for number in (1, 2, 2)}
    assert len(ledgers) == 2
    assert not (tmp_path / "new").exists()


def test_what_is_known_of_patients_is_closed_to_others(tmp_path):
    ledger_of(source(1, 10), tmp_path / "ledgers")
    assert stat.S_IMODE((tmp_path / "ledgers").stat().st_mode) == 0o700
    (marks,) = (tmp_path / "ledgers").glob("*.marks")
    assert stat.S_IMODE(marks.stat().st_mode) == 0o600


def _open(folder, number):
    ledger_of(source(number, 1, 100 + number), folder)


def test_hospitals_that_start_at_once_agree_on_one_ledger(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_open, args=(tmp_path, number)) for number in (1, 2, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    (marks,) = tmp_path.glob("*.marks")
    assert {int(mark, 16) for mark in marks.read_text().split()} == {1, 101, 102, 103}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrivacyError, match=r"file/ledgers cannot be written .* mend its permissions"):
        ledger_of(source(1, 10), tmp_path / "file" / "ledgers")
