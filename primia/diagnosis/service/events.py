"""The service's log: one JSON line per event, and never a payload, a token, a signature or a name."""

import datetime
import json
import logging
import sys
import threading
from pathlib import Path
from typing import TextIO


class EventLog:
    """Writes to a file (mode 0600) or to standard error; lines of several threads do not mix."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._stream: TextIO | None = None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._stream = path.open("a", buffering=1)

    def write(self, event: str, **fields: str | float | None) -> None:
        """Add a line; `fields` are counts, times, statuses and digests, and sentences of our own."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event} | {k: v for k, v in fields.items() if v is not None})
        with self._lock:
            stream = self._stream or sys.stderr
            try:
                print(line, file=stream, flush=True)
            except (OSError, ValueError):
                return  # a full disk or a closed terminal must not end the service

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._stream is not None:
            self._stream.close()


class ServerMessages(logging.Handler):
    """Takes what the HTTP server itself logs into the events: its kind and source line, not its text or trace."""

    def __init__(self, events: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._events = events

    def emit(self, record: logging.LogRecord) -> None:
        """One event; the text may repeat what a client sent, hence only where it came from."""
        kind = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
        self._events.write("server", level=record.levelname, source=f"{record.module}:{record.lineno}", kind=kind)
