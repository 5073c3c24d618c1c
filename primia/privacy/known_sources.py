"""Which ledger the patients of a source have: sources that share an image or a patient share the ledger."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from primia.data.origin import Origin
from primia.errors import PrivacyError
from primia.files import write_bytes
from primia.privacy.ledger import Ledger

_log = logging.getLogger(__name__)

_DIGITS = 16  # of the fingerprint, in names


def ledger_of(origin: Origin, folder: Path) -> Ledger:
    """The ledger below `folder` that patients of `origin` are charged in.

    It is named after the fingerprint of the source it was made for. Beside it, `<name>.marks` lists the marks of all
    images and patients that were ever charged in it. A source that shares a mark with it, since a file was added, an
    image resized or its name changed, goes on with the same ledger, and its own marks are added. Phantoms are
    recorded by fingerprint alone.

    What this does not notice: the same images, changed in any byte, under new names of all their patients.

    Raises:
        PrivacyError: the source holds patients of two ledgers, or the folder cannot be written.
    """
    name = origin.fingerprint[:_DIGITS]
    if origin.synthetic:
        return Ledger(folder / f"{name}.jsonl")
    with _alone(folder):
        known = {path: frozenset(path.read_text().split()) for path in sorted(folder.glob("*.marks"))}
        shared = {path: marks for path, marks in known.items() if marks & origin.marks}
        if len(shared) > 1:
            ledgers = " and ".join(str(path.with_suffix(".jsonl")) for path in shared)
            raise PrivacyError(
                f"The source holds images or patients of two sources that were charged apart, in {ledgers}; train on "
                "them apart as before, or tell different patients apart by different names."
            )
        path, before = next(iter(shared.items()), (folder / f"{name}.marks", frozenset[str]()))
        if not origin.marks <= before:
            if shared:
                _log.warning(
                    "%d images and patients of this source stand in ledger %s already, so it goes on with that one",
                    len(before & origin.marks),
                    path.stem,
                )
            write_bytes(path, "".join(f"{mark}\n" for mark in sorted(before | origin.marks)).encode(), mode=0o600)
    return Ledger(path.with_suffix(".jsonl"))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise PrivacyError(
            f"The ledgers' folder {folder} cannot be written ({error}); mend its permissions."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
