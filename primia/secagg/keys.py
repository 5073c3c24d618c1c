"""A site's lasting Ed25519 identity, and the two X25519 keys it makes afresh for every session."""

import hashlib
import hmac
import stat
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from primia.errors import FederationError, ProtocolError
from primia.files import write_bytes
from primia.secagg.session import Session, statement

KEY_BYTES = 32
SIGNATURE_BYTES = 64
HEAD_BYTES = 32
NO_LEDGER = bytes(HEAD_BYTES)


class Identity:
    """The Ed25519 key pair by which the other sites know this one."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = private.public_key().public_bytes_raw()  # 32 bytes

    def sign(self, content: bytes) -> bytes:
        """Signature of `content`, 64 bytes."""
        return self._private.sign(content)

    def fingerprint(self, content: bytes) -> str:
        """Keyed SHA-256 of `content`: stable at this site, and no test of a guess for anybody else."""
        key = hmac.digest(self._private.private_bytes_raw(), b"primia fingerprint", "sha256")
        return hmac.new(key, content, "sha256").hexdigest()


def load_or_create_identity(path: Path) -> Identity:
    """Read the identity at `path` (PEM, PKCS 8), or generate it there with mode 0600.

    Raises:
        FederationError: the file is open to others, or holds no Ed25519 key.
    """
    if not path.exists():
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_bytes(path, pem, mode=0o600)
        return Identity(private)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise FederationError(
            f"{path} can be read by others; run chmod 600 on it, or delete it to make a new identity."
        )
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except ValueError as error:
        raise FederationError(f"{path} is not a private key; restore it, or delete it to make a new one.") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise FederationError(f"{path} is not an Ed25519 key; restore it, or delete it to make a new one.")
    return Identity(key)


def verify(public: bytes, signature: bytes, content: bytes) -> bool:
    """Whether `signature` is that of `content` under the Ed25519 key `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


class SessionKey:
    """An X25519 pair (RFC 7748) that lives for one session."""

    def __init__(self, private: bytes | None = None) -> None:
        """A fresh pair, or the one of the 32 bytes `private` that its owner's neighbours gave back."""
        generate, load = X25519PrivateKey.generate, X25519PrivateKey.from_private_bytes
        self._private = generate() if private is None else load(private)
        self.public = self._private.public_key().public_bytes_raw()  # 32 bytes

    def private_bytes(self) -> bytes:
        """The 32 bytes that are shared among the neighbours."""
        return self._private.private_bytes_raw()

    def agree(self, peer: bytes) -> bytes:
        """The 32-byte secret shared with the owner of the public key `peer`.

        Raises:
            ProtocolError: `peer` is a point of small order, which would make the secret all zero and public.
        """
        try:
            secret = self._private.exchange(X25519PublicKey.from_public_bytes(peer))
        except ValueError as error:
            raise ProtocolError("A session key is a point of small order; its owner must make another.") from error
        if hmac.compare_digest(secret, bytes(KEY_BYTES)):
            raise ProtocolError("A session key gives an all-zero secret; its owner must make another.")
        return secret


class SignedKeys(BaseModel):
    """A site's two public keys for one session, signed together with its identity.

    `channel` seals the shares that pass between two sites; `mask` makes the masks that two sites have in common.
    `ledger` is the head of the site's privacy ledger when the session began, or zeros: with the keys it becomes part
    of the transcript that the others sign, so that the site cannot deny later how far its ledger had come.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, ser_json_bytes="base64", val_json_bytes="base64"
    )

    name: str = Field(min_length=1, max_length=32)
    channel: bytes = Field(min_length=KEY_BYTES, max_length=KEY_BYTES)
    mask: bytes = Field(min_length=KEY_BYTES, max_length=KEY_BYTES)
    ledger: bytes = Field(default=NO_LEDGER, min_length=HEAD_BYTES, max_length=HEAD_BYTES)
    signature: bytes = Field(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)


def sign_keys(
    identity: Identity, session: Session, *, name: str, channel: bytes, mask: bytes, ledger: bytes = NO_LEDGER
) -> SignedKeys:
    """Bind both public keys, and the ledger's head, to `name` and `session` (round 0)."""
    signature = identity.sign(statement("keys", session, name, channel, mask, ledger))
    return SignedKeys(name=name, channel=channel, mask=mask, ledger=ledger, signature=signature)


def keys_digest(keys: Iterable[SignedKeys], session: Session) -> bytes:
    """SHA-256 of all keys of round 0, in the order of their names: what the sites of a session must agree on."""
    adverts = sorted([advert.name, advert.channel, advert.mask, advert.ledger] for advert in keys)
    return hashlib.sha256(statement("all-keys", session, adverts)).digest()


def verify_keys(keys: SignedKeys, session: Session, *, identity: bytes) -> None:
    """Check that the owner of `identity` signed these keys for this session, and that they are fit for agreement.

    The coordinator checks too, before it passes the keys on, in order that one bad site cannot stop the others.

    Raises:
        ProtocolError: somebody else's keys, those of another session, or a point of small order.
    """
    if not verify(
        identity, keys.signature, statement("keys", session, keys.name, keys.channel, keys.mask, keys.ledger)
    ):
        raise ProtocolError(
            f"The keys of {keys.name} for {session} are not signed by its pinned identity; "
            "they were swapped on the way, or the hospital has a new identity that must be pinned first."
        )
    try:
        for key in (keys.channel, keys.mask):
            _PROBE.agree(key)
    except ProtocolError as error:
        raise ProtocolError(f"A key of {keys.name} for {session} is unfit; start a new attempt without it.") from error


_PROBE = SessionKey()  # a point of small order gives zero with this key as with every other
