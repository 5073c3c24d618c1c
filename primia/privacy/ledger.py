"""A site's record of the privacy it has spent: one synced line for each release, written before the noise is drawn."""

import fcntl
import hashlib
import hmac
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from primia.errors import PrivacyError
from primia.files import sync_folder
from primia.privacy.accounting import Release, epsilon_of

_log = logging.getLogger(__name__)

# What an unreadable line is taken for when nothing tells better: every patient, with almost no noise.
_UNPROTECTED = Release(sampling_rate=1.0, noise_multiplier=0.1, steps=1)


@dataclass(frozen=True)
class Entry:
    """One line: a release that is spent, whether or not its noise was ever drawn. `run` is None if unreadable."""

    run: str | None
    release: Release


class Ledger:
    """Append-only JSON lines, mode 0600; each holds the SHA-256 of all lines before it and of itself.

    An edited, removed or moved line breaks the chain. Two things a chain without a key cannot show: lines removed from
    the end (keep `head()` elsewhere and hand it to `verify`), and a chain written anew by the site itself.
    A line that was cut short, by a power failure say, counts as spent and stays where it is; the next one vouches for
    its bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def charge(self, *, run: str, round: int, attempt: int, release: Release, delta: float, synthetic: bool) -> None:
        """Write down `release` before its noise is drawn; on return the line is on the disk.

        Args:
            run: name of the training run.
            round: of the federation.
            attempt: at this round, counted from 1; each attempt draws noise and is charged.
            release: what will be released.
            delta: the δ the run is accounted at.
            synthetic: the patients are phantoms.

        Raises:
            PrivacyError: `delta` is out of range, the ledger was changed, or it cannot be written.
        """
        if not 0 < delta < 1:
            raise PrivacyError(f"δ is {delta}, but must be between 0 and 1; correct privacy.delta.")
        with self._locked() as descriptor:
            content = _read_all(descriptor)
            self._check(content)
            entry = {
                "release": {
                    "noise_multiplier": release.noise_multiplier,
                    "sampling_rate": release.sampling_rate,
                    "steps": release.steps,
                },
                "run": run,
                "round": round,
                "attempt": attempt,
                "delta": delta,
                "synthetic": synthetic,
                "previous": _prefixes(content)[-1],
            }
            line = _seal(entry) + b"\n"
            if content and not content.endswith(b"\n"):
                line = b"\n" + line
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError("the line was written in part only")
                os.fsync(descriptor)
            except OSError as error:
                raise PrivacyError(
                    f"The ledger {self.path} cannot be written ({error}), so nothing was released; "
                    "free disk space or mend the permissions and start the round again."
                ) from error

    def releases(self, run: str | None = None) -> list[Release]:
        """Everything spent by `run`, or by all runs together; a line of unknown run counts for each of them.

        A line that was cut short counts as what its readable part says, else as no less than any line before it, and
        a warning is logged.

        Raises:
            PrivacyError: the ledger was changed.
        """
        return [entry.release for entry in self._check(self._content()) if run is None or entry.run in (run, None)]

    def epsilon(self, *, run: str | None = None, delta: float) -> float:
        """ε at `delta` of everything `releases` gives."""
        return epsilon_of(self.releases(run), delta=delta)

    def head(self) -> str:
        """SHA-256 of all lines so far; kept elsewhere, it lets `verify` notice lines missing at the end."""
        return _prefixes(self._content())[-1]

    def verify(self, *, head: str | None = None) -> None:
        """Follow the chain from the first line to the last.

        Args:
            head: an earlier value of `head()`; the lines it stands for must still be there.

        Raises:
            PrivacyError: names the first line that was changed, removed or moved.
        """
        content = self._content()
        self._check(content)
        known = _prefixes(content)
        if head is not None and not any(hmac.compare_digest(head, prefix) for prefix in known):
            raise PrivacyError(
                f"{self.path} ends after line {len(known) - 1}, but more lines were known to be there; "
                "restore the ledger from the site's backup, and train no further without it."
            )

    def _check(self, content: bytes) -> list[Entry]:
        entries: list[Entry] = []
        doubtful: int | None = None  # first unreadable line that no later line has vouched for yet
        for number, (line, prefix) in enumerate(zip(_lines(content), _prefixes(content), strict=False), start=1):
            fields = _parse(line)
            if fields is None:
                doubtful = doubtful or number
                entries.append(self._torn(number, line, entries))
            elif fields["previous"] != prefix:
                raise self._changed(doubtful or number)
            else:
                doubtful = None
                entries.append(Entry(run=fields["run"], release=_release_of(fields["release"])))
        # Only a write that was cut short leaves the end of the file without a line break.
        if doubtful is not None and content.endswith(b"\n"):
            raise self._changed(doubtful)
        return entries

    def _torn(self, number: int, line: bytes, before: list[Entry]) -> Entry:
        release = _salvage(line)
        if release is None and before:
            release = Release(
                sampling_rate=max(entry.release.sampling_rate for entry in before),
                noise_multiplier=min(entry.release.noise_multiplier for entry in before),
                steps=max(entry.release.steps for entry in before),
            )
        release = release or _UNPROTECTED
        _log.warning("line %d of %s was cut short; counted as spent: %s", number, self.path, release)
        return Entry(run=None, release=release)

    def _changed(self, number: int) -> PrivacyError:
        return PrivacyError(
            f"{self.path} was changed: line {number} does not follow from the lines before it; "
            "restore the ledger from the site's backup, and train no further without it."
        )

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise PrivacyError(f"The ledger {self.path} cannot be read ({error}); mend its permissions.") from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file open for appending, made if need be, and held by this process alone."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise PrivacyError(
                f"The ledger {self.path} cannot be opened ({error}), so nothing was released; "
                "mend the permissions and start the round again."
            ) from error
        try:
            os.fchmod(descriptor, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            sync_folder(self.path.parent)
            yield descriptor
        finally:
            os.close(descriptor)


def _seal(entry: dict[str, Any]) -> bytes:
    # Not sorted: the release stands first, so that a line cut short may still say what was spent.
    digest = hashlib.sha256(json.dumps(entry).encode()).hexdigest()
    return json.dumps({**entry, "digest": digest}).encode()


def _parse(line: bytes) -> dict[str, Any] | None:
    """The line's entry, or None unless it is exactly what `charge` would have written."""
    try:
        entry = json.loads(line)
        digest = entry.pop("digest")
    except (ValueError, AttributeError, KeyError, TypeError):
        return None
    whole = isinstance(digest, str) and hmac.compare_digest(_seal(entry), line)
    return entry if whole else None


def _salvage(line: bytes) -> Release | None:
    found = re.match(rb'\{"release": (\{[^{}]*\})', line)
    try:
        return _release_of(json.loads(found[1])) if found else None
    except (ValueError, TypeError, KeyError):
        return None


def _release_of(fields: dict[str, Any]) -> Release:
    return Release(
        sampling_rate=fields["sampling_rate"], noise_multiplier=fields["noise_multiplier"], steps=fields["steps"]
    )


def _lines(content: bytes) -> list[bytes]:
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _prefixes(content: bytes) -> list[str]:
    """SHA-256 before the first line, after it, after the second, and so on, every line counted with its line break."""
    digest = hashlib.sha256()
    prefixes = [digest.hexdigest()]
    for line in _lines(content):
        digest.update(line + b"\n")
        prefixes.append(digest.hexdigest())
    return prefixes


def _read_all(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        return stream.read()
