"""One line of a ledger: what it says, how it is sealed, and what is left of it when it was cut short."""

import hashlib
import hmac
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from primia.errors import PrivacyError
from primia.privacy.accounting import Release

VERSION: Final = 2

Group = Literal["training", "validation"]
Purpose = Literal["statistics", "train", "validation"]


@dataclass(frozen=True)
class Entry:
    """A release that is spent, whether or not its noise was ever drawn.

    `hospital` and `group` say whose patients took part: those of different hospitals and groups are disjoint within
    one run. `run` is None where the line was cut short; everything else but `release` is then unknown, too.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    release: Release
    run: str | None = None
    hospital: str = ""
    group: Group = "training"
    purpose: Purpose = "train"
    round: Annotated[int, Field(ge=0)] = 0
    attempt: Annotated[int, Field(ge=0)] = 0
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    synthetic: bool = False


@dataclass(frozen=True)
class Line:
    """An entry in its place: `previous` is the SHA-256 of all lines before it; `source` is None in version 1."""

    entry: Entry
    previous: str
    source: str | None


_ENTRY = TypeAdapter(Entry)
_RELEASE = frozenset(field.name for field in fields(Release))


def write_line(entry: Entry, *, source: str, previous: str) -> bytes:
    """The sealed line of an entry, without its line break."""
    told = asdict(entry)
    # Not sorted: the release stands first, so that a line cut short may still say what was spent.
    return _seal({"release": told.pop("release"), "version": VERSION, "source": source, **told, "previous": previous})


def read_line(line: bytes, *, path: Path) -> Line | None:
    """What a line says, or None unless it is, to the byte, what `write_line` would have written.

    Lines of version 1 name neither version, source, hospital, group nor purpose; all were of training.

    Raises:
        PrivacyError: a newer version wrote it.
    """
    try:
        told = json.loads(line)
        digest = told.pop("digest")
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    if not isinstance(digest, str) or not hmac.compare_digest(_seal(told), line):
        return None
    try:
        version, source, previous = told.pop("version", 1), told.pop("source", None), told.pop("previous")
        release = told.pop("release")
        if version > VERSION or set(release) - _RELEASE:
            raise PrivacyError(
                f"{path} was written by a newer version of primia; install that version to go on with it."
            )
        entry = _ENTRY.validate_json(json.dumps({**told, "release": release}), strict=True)
    except (ValidationError, KeyError, TypeError):
        return None
    return Line(entry, previous=previous, source=source)


def salvage(line: bytes) -> Release | None:
    """The release of a line that was cut short after it."""
    found = re.match(rb'\{"release": (\{[^{}]*\})', line)
    try:
        return Release(**json.loads(found[1])) if found else None
    except (ValueError, TypeError):
        return None


def _seal(told: dict[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return json.dumps({**told, "digest": digest}).encode()
