"""The ledger that a hospital of an earlier version kept in its own state folder: taken over once, never forgotten."""

import logging
from pathlib import Path

from primia.privacy.ledger import Ledger

_log = logging.getLogger(__name__)

_DELTA = 1e-4  # where no line tells


def take_over(former: Path, *, ledger: Ledger, hospital: str) -> str | None:
    """Charge every line of the ledger at `former` to `ledger`, then rename `former` to ledger.taken-over.jsonl.

    Which source its patients came from nobody wrote down, so they are taken for those of today. A line that was cut
    short is charged as a run of its own. A takeover that was interrupted is finished: no line is charged
    twice.

    Returns:
        The ledger's head, or None if there was nothing to take over.

    Raises:
        PrivacyError: one of the two ledgers was changed.
    """
    if not former.exists():
        return None
    there = {(e.run, e.hospital, e.round, e.attempt) for e in ledger.entries()}
    entries = Ledger(former).entries()
    delta = next((entry.delta for entry in entries if entry.delta), _DELTA)
    for number, entry in enumerate(entries, start=1):
        run = entry.run or f"cut-short-line-{number}"
        if (run, hospital, entry.round, entry.attempt) not in there:
            ledger.charge(
                run=run,
                hospital=hospital,
                group="training",
                purpose="train",
                round=entry.round,
                attempt=entry.attempt,
                release=entry.release,
                delta=entry.delta or delta,
                synthetic=entry.synthetic,
            )
    former.rename(former.with_name("ledger.taken-over.jsonl"))
    _log.warning("%d lines of %s now stand in %s", len(entries), former, ledger.path)
    return ledger.head()
