"""Who may ask: clients with a token each, of which the service keeps only the SHA-256."""

import contextlib
import datetime
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from primia.diagnosis.service.refusals import Refusal
from primia.encrypted.parameters import Digest
from primia.errors import EncryptionError
from primia.files import write_bytes

TOKENS_FILE = "tokens.json"
_TOKEN = re.compile(r"primia_([0-9a-f]{8})_([0-9a-f]{64})")
# The commands of primia always send one: this is told to whoever asks by other means.
_NO_TOKEN = "The request carries no token of this service; send one as 'authorization: Bearer'."  # noqa: S105


class Token(BaseModel):
    """What is kept of a token: `id` is public, `sha256` is that of the secret half; `daily` questions a day (UTC)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    sha256: Digest
    created: AwareDatetime
    expires: AwareDatetime
    daily: Annotated[int, Field(ge=0, le=1_000_000)]
    revoked: bool = False

    def state(self) -> Literal["valid", "expired", "revoked"]:
        """Whether it may still be used."""
        if self.revoked:
            return "revoked"
        return "valid" if datetime.datetime.now(datetime.UTC) < self.expires else "expired"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Issued:
    """A new token: its text is shown once and kept nowhere."""

    token: Token
    text: str


class Tokens:
    """The file of tokens: changed by the command line, read by the service, which notices a change by itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._by_id: dict[str, Token] = {}

    def add(self, name: str, *, daily: int, days: float) -> Issued:
        """Make a token for a client.

        Raises:
            EncryptionError: the name, the quota or the days are out of range, or the name has a valid token already.
        """
        secret = secrets.token_hex(32)
        with self._changing() as tokens:
            taken = {token.id for token in tokens}
            ident = next(i for i in iter(lambda: secrets.token_hex(4), "") if i not in taken)
            if any(token.name == name and token.state() == "valid" for token in tokens):
                raise EncryptionError(f"{name!r} has a valid token already; revoke it first, or choose another name.")
            now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
            try:
                expires = now + datetime.timedelta(days=days)
                token = Token(id=ident, name=name, sha256=_hash(secret), created=now, expires=expires, daily=daily)
            except (ValidationError, OverflowError, ValueError) as error:
                raise EncryptionError(
                    "A token needs a name of 1 to 64 printable characters, 0 to 1000000 questions a day, and days "
                    "before the year 9999; choose other values."
                ) from error
            if expires <= now:
                raise EncryptionError(f"A token of {days:g} days would be expired at once; give it more than 0 days.")
            tokens.append(token)
        return Issued(token, f"primia_{ident}_{secret}")

    def all(self) -> tuple[Token, ...]:
        """All tokens ever made, in order.

        Raises:
            EncryptionError: the file is damaged.
        """
        self._refresh()
        return tuple(self._by_id.values())

    def revoke(self, ident: str) -> Token:
        """Make a token worthless; a running service notices at its next request.

        Raises:
            EncryptionError: there is no token of this id.
        """
        with self._changing() as tokens:
            for place, token in enumerate(tokens):
                if token.id == ident:
                    tokens[place] = token.model_copy(update={"revoked": True})
                    return tokens[place]
            raise EncryptionError(f"There is no token {ident!r}; `primia token list` shows their ids.")

    def holder(self, authorization: str | None) -> Token:
        """The token that an authorization header proves.

        An unknown id takes the same steps as a known one.

        Raises:
            Refusal: 401 when there is none, or it is unknown, expired or revoked; 503 when the file is damaged.
        """
        try:
            self._refresh()
        except EncryptionError as error:
            raise Refusal(503, "The service cannot read its tokens; tell who runs it.", retry_after=60) from error
        scheme, _, text = (authorization or "").partition(" ")
        match = _TOKEN.fullmatch(text.strip())
        if scheme.lower() != "bearer" or match is None:
            raise Refusal(401, _NO_TOKEN)
        token = self._by_id.get(match[1])
        expected = token.sha256 if token is not None else "0" * 64
        proven = hmac.compare_digest(_hash(match[2]), expected)
        if token is None or not proven:
            raise Refusal(401, "The token is unknown here; ask who runs the service for a new one.")
        if (state := token.state()) != "valid":
            raise Refusal(401, f"The token is {state}; ask who runs the service for a new one.")
        return token

    def valid_ids(self) -> frozenset[str]:
        """Ids of the tokens that may be used now."""
        return frozenset(token.id for token in self.all() if token.state() == "valid")

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen, self._by_id = None, {}
            return
        except OSError as error:
            raise EncryptionError(f"{self._path} cannot be read ({error.strerror}); mend its rights.") from error
        seen = (stat.st_mtime_ns, stat.st_ino, stat.st_size)
        if seen != self._seen:
            self._by_id = {token.id: token for token in self._read()}
            self._seen = seen

    def _read(self) -> tuple[Token, ...]:
        try:
            return _File.model_validate_json(self._path.read_bytes()).tokens
        except FileNotFoundError:
            return ()
        except (ValidationError, OSError) as error:
            raise EncryptionError(
                f"{self._path} is damaged; restore it, or remove it and give out new tokens."
            ) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """The tokens, to be changed in place; written when the block ends well. One process at a time."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = os.open(self._path.with_name(f"{self._path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            tokens = list(self._read())
            yield tokens
            content = _File(tokens=tuple(tokens)).model_dump_json(indent=2).encode() + b"\n"
            write_bytes(self._path, content, mode=0o600)
        finally:
            os.close(lock)


def _hash(secret: str) -> str:
    # 256 random bits need no salt and no slow hash: they cannot be guessed
    return hashlib.sha256(secret.encode()).hexdigest()
