"""The client's key folder: complete or not there at all, closed to other users, never overwritten."""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field

from primia.diagnosis.client.passphrase import Lock, is_sealed
from primia.diagnosis.wire import ModelName, PublicKey, digest_of
from primia.encrypted.ckks import Scheme
from primia.encrypted.parameters import Parameters
from primia.errors import EncryptionError
from primia.files import sync_folder, write_bytes

SECRET = "secret.key"  # noqa: S105 - a name
EVALUATION = "evaluation.keys"
PARAMETERS = "parameters.json"
IDENTITY = "identity.pem"
SERVER = "server.json"
TOKEN = "token"  # noqa: S105 - a name
AUTHORITY = "ca.pem"

_TOKEN = re.compile(r"primia_[0-9a-f]{8}_[0-9a-f]{64}")


class Server(BaseModel):
    """The server that the keys were made for: its address, the public key it must sign with, the model asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    url: str = Field(max_length=2000)
    identity: PublicKey
    model: ModelName


@dataclass(frozen=True)
class Keyring:
    """An opened key folder. Nothing secret shows in its representation."""

    folder: Path
    scheme: Scheme = field(repr=False)
    secret: Any = field(repr=False)  # SEAL's
    evaluation_keys: bytes = field(repr=False)
    identity: Ed25519PrivateKey = field(repr=False)
    server: Server
    token: str = field(repr=False)

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        parameters: Parameters,
        server: Server,
        token: str,
        passphrase: str | None = None,
        authority: bytes | None = None,
    ) -> None:
        """Make all keys and write the folder as a whole (mode 0700, files 0600).

        `authority`: the certificates (PEM) that the server's own is checked against, instead of the system's.

        Raises:
            EncryptionError: the folder holds something already, or the token or the passphrase is none.
            DataError: the folder cannot be written.
        """
        refuse_existing(folder)
        lock = None if passphrase is None else Lock.new(passphrase)
        secret, evaluation_keys = Scheme(parameters).generate_keys()
        identity = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption() if lock is None else serialization.BestAvailableEncryption(lock.password),
        )
        contents = {
            SECRET: secret if lock is None else lock.seal(secret),
            EVALUATION: evaluation_keys,
            PARAMETERS: parameters.model_dump_json().encode(),
            IDENTITY: identity,
            SERVER: server.model_dump_json(indent=2).encode(),
            TOKEN: checked_token(token).encode(),
        }
        _written_as_a_whole(folder, contents if authority is None else contents | {AUTHORITY: authority})

    @classmethod
    def open(cls, folder: Path, passphrase: str | None = None, *, token: str | None = None) -> Self:
        """Read a folder that `create` wrote; a `token` given here takes the place of the folder's, if it has one.

        Raises:
            EncryptionError: files are missing, damaged, readable by other users or do not belong together, or the
                passphrase is missing or wrong.
        """
        contents = {name: _private(folder, name) for name in (SECRET, EVALUATION, PARAMETERS, IDENTITY, SERVER)}
        secret, password = contents[SECRET], None
        if is_sealed(secret):
            if passphrase is None:
                raise EncryptionError(f"The keys in {folder} are under a passphrase; give it (PRIMIA_PASSPHRASE).")
            lock = Lock.of(secret, passphrase)
            secret, password = lock.open(secret), lock.password
        with _damage(folder, PARAMETERS):
            scheme = Scheme(Parameters.model_validate_json(contents[PARAMETERS]))
        with _damage(folder, SERVER):
            server = Server.model_validate_json(contents[SERVER])
        with _damage(folder, IDENTITY):
            identity = serialization.load_pem_private_key(contents[IDENTITY], password)
            if not isinstance(identity, Ed25519PrivateKey):
                raise ValueError("another kind of key")
        with _damage(folder, SECRET):
            loaded = scheme.load_secret(secret)
        ring = cls(
            folder=folder,
            scheme=scheme,
            secret=loaded,
            evaluation_keys=contents[EVALUATION],
            identity=identity,
            server=server,
            token=_kept_token(folder) if token is None else checked_token(token),
        )
        ring._check_pair()
        return ring

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the evaluation keys, the name under which a server keeps them."""
        return digest_of(self.evaluation_keys)

    @property
    def public(self) -> str:
        """The public key that this client's questions are checked with, in hexadecimal."""
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return self.identity.public_key().public_bytes(*raw).hex()

    @property
    def authority(self) -> Path | None:
        """Certificates to check the server's with; None for the system's."""
        path = self.folder / AUTHORITY
        return path if path.exists() else None

    def keep_token(self, token: str) -> None:
        """Put another token in the place of the one in the folder."""
        write_bytes(self.folder / TOKEN, checked_token(token).encode(), mode=0o600)

    def _check_pair(self) -> None:
        with _damage(self.folder, EVALUATION):
            keys = self.scheme.load_keys(self.evaluation_keys)
        if not self.scheme.owns(self.secret, keys):
            raise EncryptionError(
                f"{self.folder / EVALUATION} does not belong to the secret key beside it; restore the file, "
                "or make new keys with keygen in another folder."
            )


def needs_passphrase(folder: Path) -> bool:
    """Whether the folder's keys are under a passphrase."""
    return is_sealed(_private(folder, SECRET))


def refuse_existing(folder: Path) -> None:
    """Raise `EncryptionError` where new keys would stand in the way of anything that is there."""
    if os.path.lexists(folder) and not (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())):
        raise EncryptionError(f"{folder} already holds keys or other files; choose another folder for new keys.")


def checked_token(token: str) -> str:
    """A token as the service's operator gives it out; nothing of it is repeated in an error."""
    if not _TOKEN.fullmatch(token.strip()):
        raise EncryptionError(
            "The token is not of the form primia_<8 hexadecimal digits>_<64 hexadecimal digits>; "
            "copy it again as a whole."
        )
    return token.strip()


def read_token(path: Path) -> str:
    """What a file with a token holds; as in a key folder, nobody but its owner may read it.

    Raises:
        EncryptionError: it cannot be read, or other users of this machine can read it, too.
    """
    try:
        with path.open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            if stat.S_ISREG(mode):  # a pipe or a terminal keeps nothing
                _refuse_open(path, mode, instead="ask for a new token")
            return stream.read(200).decode("ascii", "replace").strip()
    except OSError as error:
        raise EncryptionError(
            f"The token file {path} cannot be read ({error.strerror}); correct --token-file."
        ) from error


def _kept_token(folder: Path) -> str:
    content = _private(folder, TOKEN) if (folder / TOKEN).exists() else b""
    try:
        return checked_token(content.decode("ascii"))
    except ValueError:  # nothing of the content is repeated
        raise EncryptionError(
            f"{folder / TOKEN} is missing or damaged; give the token again with primia enrol --token-file."
        ) from None


def _refuse_open(path: Path, mode: int, *, instead: str) -> None:
    if mode & 0o077:
        raise EncryptionError(
            f"{path} can be read or changed by other users of this machine; "
            f"run chmod {'700' if stat.S_ISDIR(mode) else '600'} on it, or {instead}."
        )


def _private(folder: Path, name: str) -> bytes:
    """The content of a file that only its owner can read, in a folder that only its owner can open."""
    path = folder / name
    try:
        with path.open("rb") as stream:
            for at, mode in ((folder, folder.stat().st_mode), (path, os.fstat(stream.fileno()).st_mode)):
                _refuse_open(at, mode, instead="make new keys with keygen")
            return stream.read()
    except OSError as error:
        raise EncryptionError(f"{folder} holds no complete set of keys; make one with keygen.") from error


@contextlib.contextmanager
def _damage(folder: Path, name: str) -> Any:
    try:
        yield
    except (ValueError, TypeError):  # nothing of the content is repeated
        raise EncryptionError(
            f"{folder / name} is damaged; restore it from a backup, or make new keys with keygen in another folder."
        ) from None


def _written_as_a_whole(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder = folder.absolute()
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))  # mode 0700
        for name, content in contents.items():
            write_bytes(temporary / name, content, mode=0o600)
        temporary.rename(folder)  # refused by the system unless `folder` is empty or not there
        temporary = None
        sync_folder(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise EncryptionError(
                f"{folder} already holds keys or other files; choose another folder for new keys."
            ) from error
        raise EncryptionError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
