"""Clients' evaluation keys on the server: named by their SHA-256, limited in number, forgotten after a while."""

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from primia.files import write_bytes


class KeyStore:
    """Files in a private temporary folder that goes away with `close`.

    Args:
        most: how many clients' keys are kept at once.
        expire_s: seconds after the last use until keys are forgotten.
        clock: seconds, monotonic.
    """

    def __init__(self, *, most: int, expire_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="primia-keys-")
        self._most = most
        self._expire_s = expire_s
        self._clock = clock
        self._last_used: dict[str, float] = {}

    def __len__(self) -> int:
        self._forget_expired()
        return len(self._last_used)

    def add(self, content: bytes) -> str | None:
        """Keep keys and return their name; None when the store is full of keys still in use."""
        name = hashlib.sha256(content).hexdigest()
        self._forget_expired()
        if name not in self._last_used:
            if len(self._last_used) >= self._most:
                return None
            write_bytes(self._path(name), content, mode=0o600)
        self._last_used[name] = self._clock()
        return name

    def path(self, name: str) -> Path | None:
        """The file of keys in use, or None; a hit starts their time anew."""
        self._forget_expired()
        if name not in self._last_used:
            return None
        self._last_used[name] = self._clock()
        return self._path(name)

    def forget(self, name: str) -> None:
        """Remove keys now."""
        if self._last_used.pop(name, None) is not None:
            self._path(name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove all keys and the folder."""
        self._last_used.clear()
        self._folder.cleanup()

    def _path(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _forget_expired(self) -> None:
        now = self._clock()
        for name in [name for name, used in self._last_used.items() if now - used > self._expire_s]:
            self.forget(name)
