"""Clients' evaluation keys on the service: limited in number and bytes, and forgotten after a while."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.wire import PublicKey
from primia.encrypted.parameters import Digest
from primia.errors import PrimiaError
from primia.files import write_bytes


class _Label(BaseModel):
    """Stands beside the keys once they were checked; the file's time is that of the last use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    identity: PublicKey
    parameters: Digest


@dataclass(frozen=True)
class StoredKeys:
    """Checked keys of one client: whose questions they serve, and for which parameters they were made."""

    path: Path  # its name is the SHA-256 of the keys
    identity: str
    parameters: str
    size: int
    used: float  # seconds since 1970


class KeyStore:
    """Files `<client>/<SHA-256>` and their labels, in a folder that only this service reads; they outlive a restart.

    The index is used by one thread; `write` and `discard` are for others, as they wait for the disk.
    """

    def __init__(self, folder: Path, settings: ServiceSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._settings, self._clock = folder, settings, clock
        self._stored: dict[tuple[str, str], StoredKeys] = {}
        self._coming: dict[tuple[str, str], int] = {}  # bytes of keys that are being checked
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        self._read()

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def size(self) -> int:
        """Size of all keys that are kept."""
        return sum(keys.size for keys in self._stored.values())

    def find(self, client: str, digest: str) -> StoredKeys | None:
        """A client's own keys, if they are known and not expired; their time starts anew."""
        keys = self._stored.get((client, digest))
        if keys is None or self._is_expired(keys):
            return None
        now = self._clock()
        if now - keys.used > min(60.0, self._settings.keys_expire_s / 100):
            with contextlib.suppress(OSError):
                os.utime(_label(keys.path), (now, now))
        self._stored[client, digest] = keys = replace(keys, used=now)
        return keys

    def reserve(self, client: str, digest: str, size: int) -> Path:
        """Room for keys that are about to be written and checked; end it with `keep` or `release`.

        Other clients' keys never make room; a client's own oldest do, once the new ones are kept.

        Raises:
            Refusal: 429 when these keys are being checked already; 503 when the store is full.
        """
        if (client, digest) in self._coming:
            raise Refusal(429, "These keys are being checked already; wait for that answer.", retry_after=5)
        self.sweep()
        going = self._surplus(client)
        count = len(self._stored) + len(self._coming) - len(going)
        total = self.size + sum(self._coming.values()) - sum(keys.size for keys in going)
        if count >= self._settings.most_keys or total + size > self._settings.most_key_store_bytes:
            raise Refusal(503, "The service keeps as many keys as it can; enrol again later.", retry_after=600)
        self._coming[client, digest] = size
        return self._folder / client / digest

    def write(self, path: Path, content: bytes) -> None:
        """Write keys that are to be checked.

        Raises:
            Refusal: 503 when the disk does not take them.
        """
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_bytes(path, content, mode=0o600)
        except (PrimiaError, OSError) as error:
            raise Refusal(
                503, "The service has no room on its disk for these keys; tell who runs it.", retry_after=600
            ) from error

    def label(self, path: Path, *, identity: str, parameters: str) -> None:
        """Mark written keys as checked."""
        content = _Label(identity=identity, parameters=parameters).model_dump_json().encode()
        self.write(_label(path), content)
        os.utime(_label(path), (self._clock(), self._clock()))

    def keep(self, client: str, digest: str, *, identity: str, parameters: str) -> None:
        """Take checked and labelled keys into the index; the client's surplus goes."""
        size = self._coming.pop((client, digest))
        going = self._surplus(client)
        path = self._folder / client / digest
        self._stored[client, digest] = StoredKeys(path, identity, parameters, size, self._clock())
        for keys in going:
            self._forget(client, keys)

    def release(self, client: str, digest: str) -> None:
        """Give up what `reserve` gave, and remove what was written."""
        del self._coming[client, digest]
        _remove(self._folder / client / digest)

    def relabel(self, client: str, digest: str, *, identity: str) -> bool:
        """Known keys, enrolled again under another identity of the same client; False when they went meanwhile."""
        if (client, digest) not in self._stored:
            if (client, digest) not in self._coming:
                _remove(self._folder / client / digest)  # the label was written after the keys had gone
            return False
        self._stored[client, digest] = replace(self._stored[client, digest], identity=identity, used=self._clock())
        return True

    def sweep(self, valid: Collection[str] | None = None) -> None:
        """Forget keys that expired, and those of clients that are no longer `valid`."""
        for (client, _), keys in list(self._stored.items()):
            if self._is_expired(keys) or (valid is not None and client not in valid):
                self._forget(client, keys)

    def _surplus(self, client: str) -> list[StoredKeys]:
        own = sorted((k for (who, _), k in self._stored.items() if who == client), key=lambda keys: keys.used)
        return own[: max(0, len(own) + 1 - self._settings.keys_per_client)]

    def _is_expired(self, keys: StoredKeys) -> bool:
        return self._clock() - keys.used > self._settings.keys_expire_s

    def _forget(self, client: str, keys: StoredKeys) -> None:
        del self._stored[client, keys.path.name]
        _remove(keys.path)

    def _read(self) -> None:
        """The index of what an earlier run of the service kept; anything else in the folder goes."""
        for folder in self._folder.iterdir():
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.suffix == ".json":
                    continue
                label = _label(path)
                try:
                    said = _Label.model_validate_json(label.read_bytes())
                except (ValidationError, OSError):
                    _remove(path)
                    continue
                self._stored[folder.name, path.name] = StoredKeys(
                    path, said.identity, said.parameters, path.stat().st_size, label.stat().st_mtime
                )
            if not any(client == folder.name for client, _ in self._stored):
                shutil.rmtree(folder, ignore_errors=True)
        self.sweep()


def _label(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        _label(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
