"""The service's log: one JSON line per event, and never a payload, a token, a signature or a name."""

import contextlib
import datetime
import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

FILE_BYTES = 64 << 20  # the log takes that much, twice more for what came before
_OLDER_FILES = 2
_ANONYMOUS_PER_S = 10.0  # lines of what nobody with a token caused
_ANONYMOUS_BURST = 50.0


class EventLog:
    """Writes to a file (mode 0600) or to standard error; lines of several threads do not mix.

    Without a token nobody fills the disk: of what strangers cause, only some lines a second are written, and how many
    were left out; a file of `file_bytes` is put aside, and the third oldest goes.
    """

    def __init__(
        self, path: Path | None = None, *, file_bytes: int = FILE_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._path, self._file_bytes, self._clock = path, file_bytes, clock
        self._allowed, self._since, self._left_out = _ANONYMOUS_BURST, clock(), 0
        self._stream: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = _opened(path)

    def write(self, event: str, *, anonymous: bool = False, **fields: str | float | None) -> None:
        """Add a line; `fields` are counts, times, statuses and digests, and sentences of our own.

        Args:
            anonymous: somebody without a token caused it.
        """
        with self._lock:
            if anonymous and not self._may_write():
                self._left_out += 1
                return
            if anonymous and self._left_out:
                self._add("left_out", {"lines": self._left_out})
                self._left_out = 0
            self._add(event, fields)

    def close(self) -> None:
        """Close the file, if there is one."""
        with self._lock:
            if self._left_out:
                self._add("left_out", {"lines": self._left_out})
                self._left_out = 0
            if self._stream is not None:
                self._stream.close()

    def _may_write(self) -> bool:
        now = self._clock()
        self._allowed = min(_ANONYMOUS_BURST, self._allowed + (now - self._since) * _ANONYMOUS_PER_S)
        self._since = now
        if self._allowed < 1.0:
            return False
        self._allowed -= 1.0
        return True

    def _add(self, event: str, fields: "dict[str, str | float | None] | dict[str, int]") -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event} | {k: v for k, v in fields.items() if v is not None})
        try:
            print(line, file=self._stream or sys.stderr, flush=True)
            if self._path is not None and self._stream is not None and self._stream.tell() >= self._file_bytes:
                self._put_aside(self._path)
        except (OSError, ValueError):
            return  # a full disk or a closed terminal must not end the service

    def _put_aside(self, path: Path) -> None:
        for number in range(_OLDER_FILES, 0, -1):
            younger = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
            with contextlib.suppress(FileNotFoundError):
                younger.replace(path.with_name(f"{path.name}.{number}"))
        stream = _opened(path)
        if self._stream is not None:
            self._stream.close()
        self._stream = stream


def _opened(path: Path) -> TextIO:
    path.touch(mode=0o600)
    return path.open("a", buffering=1)


class ServerMessages(logging.Handler):
    """Takes what the HTTP server itself logs into the events: its kind and source line, not its text or trace."""

    def __init__(self, events: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """One event; the text may repeat what a client sent, hence only where it came from."""
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        source = f"{record.module}:{record.lineno}"
        self._events.write("server", anonymous=True, level=record.levelname, source=source, kind=kind)
