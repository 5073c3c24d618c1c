"""What each client used today, and which questions were asked already: in SQLite, so that a restart forgets neither."""

import datetime
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from primia.diagnosis.service.refusals import Refusal
from primia.errors import EncryptionError

_TABLES = """
CREATE TABLE IF NOT EXISTS used (
    client TEXT, day TEXT, kind TEXT, count INTEGER NOT NULL, PRIMARY KEY (client, day, kind)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nonces (client TEXT, nonce BLOB, until REAL NOT NULL, PRIMARY KEY (client, nonce))
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS nonces_until ON nonces (until);
"""


class Usage:
    """Counts per client and day (UTC), and nonces until no question could carry them any more.

    Args:
        path: the file, made with mode 0600.
        clock: seconds since 1970.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = FULL")  # what was counted stays counted after a power cut
            self._base.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise EncryptionError(
                f"{path} cannot be used ({error}); remove it: only today's quotas are lost with it."
            ) from error

    def used(self, client: str, kind: str) -> int:
        """How many questions or enrolments (`kind`) a client has used today."""
        with self._transaction() as base:
            return self._used(base, client, kind)

    def take_question(self, client: str, nonce: bytes, *, most: int, until: float) -> None:
        """Count a question and remember its nonce until a time; both or neither.

        Raises:
            Refusal: 409 when it was asked already; 429 when today's quota is used up.
        """
        with self._transaction() as base:
            base.execute("DELETE FROM nonces WHERE until < ?", (self._clock(),))
            added = base.execute("INSERT OR IGNORE INTO nonces VALUES (?, ?, ?)", (client, nonce, until)).rowcount
            if not added:
                raise Refusal(409, "This question was asked already; encrypt the image again and ask anew.")
            self._count(base, client, "question", most)

    def give_back_question(self, client: str, nonce: bytes) -> None:
        """Undo `take_question`: the service could not answer, so the client may ask the same again."""
        with self._transaction() as base:
            if base.execute("DELETE FROM nonces WHERE client = ? AND nonce = ?", (client, nonce)).rowcount:
                base.execute(
                    "UPDATE used SET count = count - 1 WHERE client = ? AND day = ? AND kind = ? AND count > 0",
                    (client, self._day(), "question"),
                )

    def take_enrolment(self, client: str, *, most: int) -> None:
        """Count an enrolment.

        Raises:
            Refusal: 429 when today's are used up.
        """
        with self._transaction() as base:
            self._count(base, client, "enrolment", most)

    def check_quota(self, client: str, kind: str, *, most: int) -> None:
        """Refuse a client whose quota is used up, before its body is read.

        Raises:
            Refusal: 429.
        """
        if self.used(client, kind) >= most:
            raise self._used_up(kind, most)

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _used(self, base: sqlite3.Connection, client: str, kind: str) -> int:
        row = base.execute(
            "SELECT count FROM used WHERE client = ? AND day = ? AND kind = ?", (client, self._day(), kind)
        ).fetchone()
        return int(row[0]) if row else 0

    def _count(self, base: sqlite3.Connection, client: str, kind: str, most: int) -> None:
        if self._used(base, client, kind) >= most:
            raise self._used_up(kind, most)
        base.execute("DELETE FROM used WHERE day < ?", (self._day(),))
        base.execute(
            "INSERT INTO used VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            (client, self._day(), kind),
        )

    def _used_up(self, kind: str, most: int) -> Refusal:
        now = self._now()
        midnight = (now + datetime.timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return Refusal(
            429,
            f"This token allows {most} {kind}s a day (UTC), and they are used up; ask again tomorrow.",
            retry_after=(midnight - now).total_seconds(),
        )

    def _now(self) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._clock(), datetime.UTC)

    def _day(self) -> str:
        return self._now().date().isoformat()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._base.execute("BEGIN IMMEDIATE")
                yield self._base
                self._base.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise Refusal(
                    503, "The service cannot count requests at the moment; tell who runs it.", retry_after=60
                ) from error
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._base.in_transaction:
            self._base.execute("ROLLBACK")
