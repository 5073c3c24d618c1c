"""rounds.jsonl: one line for every session of a run, who took part in it, who dropped out and why, and its cost."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from primia.errors import FederationError
from primia.federation.rollcall import Phase
from primia.files import append_line, read_lines
from primia.secagg.session import Purpose

Outcome = Literal["finished", "repeated", "rolled_back", "failed"]


@dataclass(frozen=True)
class SessionRecord:
    """One session: a sum that was `finished`, one that was `repeated` or `failed` since too few hospitals stayed.

    A validation after which its round was undone is `rolled_back`. `participants` are in the sum; who fell silent
    after that is among the dropped, too. The last three figures are those of a finished training.
    """

    purpose: Purpose
    round: int
    attempt: int
    outcome: Outcome
    participants: tuple[str, ...]
    dropped: dict[str, str]
    phases: dict[str, Phase] = field(default_factory=dict)
    clipped_fraction: float | None = None
    shrunk: int | None = None
    training_loss: float | None = None


_RECORD = TypeAdapter(SessionRecord)


def record_line(record: SessionRecord) -> str:
    """The record as one line of JSON."""
    return _RECORD.dump_json(record).decode()


class Journal:
    """The file of one run; it only grows."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, record: SessionRecord) -> None:
        """Append one line; on the disk when this returns."""
        append_line(self._path, record_line(record))

    def records(self) -> tuple[SessionRecord, ...]:
        """All lines so far.

        Raises:
            FederationError: a line is damaged.
        """
        try:
            return tuple(_RECORD.validate_json(line) for line in read_lines(self._path))
        except ValidationError as error:
            raise FederationError(
                f"{self._path} is damaged; remove it, and only this record of past sessions is lost."
            ) from error
