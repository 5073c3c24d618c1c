"""A source's record of the privacy it has spent: one synced line a release, written before the noise is drawn."""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from primia.errors import PrivacyError
from primia.files import sync_folder
from primia.privacy.accounting import Release
from primia.privacy.ledger_line import Entry, Group, Purpose, read_line, salvage, write_line

_log = logging.getLogger(__name__)

# What an unreadable line is taken for when nothing tells better: every patient, with almost no noise.
_UNPROTECTED = Release(sampling_rate=1.0, noise_multiplier=0.1, steps=1)


class Ledger:
    """Append-only JSON lines, mode 0600; each holds the SHA-256 of all lines before it and of itself.

    The name of the file, without its ending, is that of the source; every line repeats it. All hospitals that were
    dealt from one source on one machine write to the same file, one at a time.

    An edited, removed or moved line breaks the chain. Two things a chain without a key cannot show: lines removed from
    the end (keep `head()` elsewhere and hand it to `verify`), and a chain written anew by the site itself.
    A line that was cut short, by a power failure say, counts as spent and stays where it is; the next one vouches for
    its bytes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.source = path.stem

    def charge(
        self,
        *,
        run: str,
        hospital: str,
        group: Group,
        purpose: Purpose,
        round: int,
        attempt: int,
        release: Release,
        delta: float,
        synthetic: bool,
    ) -> str:
        """Write down `release` before its noise is drawn; on return the line is on the disk.

        Args:
            run: name of the training run.
            hospital: whose patients take part.
            group: which of them.
            purpose: what is released.
            round: of the federation.
            attempt: at this round, counted from 1; each attempt draws noise and is charged.
            release: what will be released.
            delta: the δ the run is accounted at.
            synthetic: the patients are phantoms.

        Returns:
            The `head` after this line.

        Raises:
            PrivacyError: `delta` is out of range, the ledger was changed, or it cannot be written.
        """
        if not 0 < delta < 1:
            raise PrivacyError(f"δ is {delta}, but must be between 0 and 1; correct privacy.delta.")
        entry = Entry(release, run, hospital, group, purpose, round, attempt, delta, synthetic)
        with self._locked() as descriptor:
            content = _read_all(descriptor)
            self._check(content)
            line = write_line(entry, source=self.source, previous=_prefixes(content)[-1]) + b"\n"
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
        return _prefixes(content + line)[-1]

    def entries(self) -> list[Entry]:
        """Everything spent, in order.

        A line that was cut short counts as what its readable part says, else as no less than any line before it, and
        a warning is logged.

        Raises:
            PrivacyError: the ledger was changed, is that of another source, or of a newer version.
        """
        return self._check(self._content())

    def lines(self, *, run: str, hospital: str) -> str:
        """The lines of one hospital in one run as they stand in the file.

        Raises:
            PrivacyError: see `entries`.
        """
        content = self._content()
        of_run = zip(_lines(content), self._check(content), strict=True)
        return "".join(line.decode() + "\n" for line, entry in of_run if (entry.run, entry.hospital) == (run, hospital))

    def head(self) -> str:
        """SHA-256 of all lines so far; kept elsewhere, it lets `verify` notice lines missing at the end."""
        return _prefixes(self._content())[-1]

    def verify(self, *, head: str | None = None) -> int:
        """Follow the chain from the first line to the last, and give their number.

        Args:
            head: an earlier value of `head()`; the lines it stands for must still be there.

        Raises:
            PrivacyError: names the first line that was changed, removed or moved.
        """
        number = len(self.entries())
        if head is not None and not self.holds(head):
            raise PrivacyError(
                f"{self.path} holds {number} lines, but not those that are known to have been there: it was "
                "rolled back or written anew; restore the ledger from the site's backup, and train no further "
                "without it."
            )
        return number

    def holds(self, head: str) -> bool:
        """Whether the lines that `head` stands for are the first lines of the ledger."""
        return head in _prefixes(self._content())

    def _check(self, content: bytes) -> list[Entry]:
        entries: list[Entry] = []
        doubtful: int | None = None  # first unreadable line that no later line has vouched for yet
        for number, (raw, prefix) in enumerate(zip(_lines(content), _prefixes(content), strict=False), start=1):
            line = read_line(raw, path=self.path)
            if line is None:
                doubtful = doubtful or number
                entries.append(self._torn(number, raw, entries))
            elif line.source not in (None, self.source):
                raise PrivacyError(
                    f"{self.path} holds lines of the ledger of another source, {line.source}.jsonl; use that one, and "
                    "restore this source's own from the site's backup."
                )
            elif line.previous != prefix:
                raise self._changed(doubtful or number)
            else:
                doubtful = None
                entries.append(line.entry)
        # Only a write that was cut short leaves the end of the file without a line break.
        if doubtful is not None and content.endswith(b"\n"):
            raise self._changed(doubtful)
        return entries

    def _torn(self, number: int, line: bytes, before: list[Entry]) -> Entry:
        release = salvage(line)
        if release is None and before:
            earlier = [entry.release for entry in before]
            release = replace(
                min(earlier, key=lambda one: one.noise_multiplier),
                sampling_rate=max(one.sampling_rate for one in earlier),
                steps=max(one.steps for one in earlier),
            )
        release = release or _UNPROTECTED
        _log.warning("line %d of %s was cut short; counted as spent: %s", number, self.path, release)
        return Entry(release)

    def _changed(self, number: int) -> PrivacyError:
        return PrivacyError(
            f"{self.path} was changed: line {number} does not follow from the lines before it; "
            "restore the ledger from the site's backup, and train no further without it."
        )

    def _content(self) -> bytes:
        try:
            with self.path.open("rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_SH)  # never half a line that another hospital is writing
                return stream.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise PrivacyError(f"The ledger {self.path} cannot be read ({error}); mend its permissions.") from error

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """The file open for appending, made if need be, and held by this process alone."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
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
