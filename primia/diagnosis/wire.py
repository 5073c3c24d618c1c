"""What travels between the diagnosing client and the service: strict messages, each signed by who sends it.

Bodies are msgpack of exactly the fields below, or JSON for the description, which people read, too. The signature is
Ed25519 over the kind of the message and the SHA-256 of the body as it travels, in hexadecimal in the header
`primia-signature`. CKKS ciphertexts are malleable: without the signature a flipped bit could decrypt to another
diagnosis.
"""

import hashlib
import itertools
from typing import Annotated, Any, Literal, TypeVar, cast

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from primia.encrypted.parameters import MOST_CIPHERTEXTS, Digest, Specification
from primia.errors import EncryptionError

SIGNATURE_HEADER = "primia-signature"
CLOCK_S = 300  # by how much the clocks of client and server may differ
_MOST_CONTAINERS = 2  # the fields, and the list of a question's ciphertexts

PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Time = Annotated[int, Field(ge=0, lt=2**40)]  # seconds since 1970, UTC
Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1


class Enrolment(_Message):
    """POST /keys: evaluation keys, and the key with which this client will sign its questions.

    Signed by `identity` itself; that the sender may enrol at all is what the token says.
    """

    identity: PublicKey
    parameters: Digest
    keys: bytes
    time: Time


class Question(_Message):
    """POST /models/{name}/predict: an encrypted image; signed by the identity that enrolled `keys`."""

    name: ModelName
    model: Digest  # the model the client was told of; another one answers with a refusal
    keys: Digest  # SHA-256 of the evaluation keys
    nonce: Annotated[bytes, Field(min_length=16, max_length=16)]  # fresh: a question is answered once
    time: Time
    ciphertexts: Annotated[list[bytes], Field(min_length=1, max_length=MOST_CIPHERTEXTS)]


class Answer(_Message):
    """The encrypted logits; signed by the service. `question` is the SHA-256 of the question's body."""

    question: Digest
    model: Digest
    description: Digest  # SHA-256 of the description's body now: version and marks belong to the answer
    ciphertext: bytes


class IdentityProof(_Message):
    """GET /identity?nonce=..., as JSON, for all: by it a client knows the service before it sends its token."""

    identity: PublicKey
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


class ModelDescription(_Message):
    """GET /models/{name}, as JSON: the approved version; signed by the service, whose public key is `identity`."""

    name: ModelName
    version: str = Field(max_length=64)
    marks: str | None = Field(max_length=200)  # such as "unfit for patients"
    identity: PublicKey
    specification: Specification


M = TypeVar("M", Enrolment, Question, Answer)


def encode(message: Enrolment | Question | Answer) -> bytes:
    """The body of a message."""
    return cast(bytes, msgpack.packb(message.model_dump()))


def decode(kind: type[M], body: bytes) -> M:
    """Read a body; the caller has limited its length.

    Raises:
        EncryptionError: it is no message of this kind; nothing of its content is repeated.
    """
    containers = itertools.count(1)

    def counted(container: Any) -> Any:
        # Checked while they are read: a body of many empty containers would otherwise take seventy times its size.
        inner = container.values() if isinstance(container, dict) else container
        if next(containers) > _MOST_CONTAINERS or any(isinstance(each, dict) for each in inner):
            raise ValueError
        if isinstance(container, list) and not all(isinstance(each, bytes) for each in container):
            raise ValueError
        return container

    try:
        fields: Any = msgpack.unpackb(
            body,
            object_hook=counted,
            list_hook=counted,
            strict_map_key=True,
            max_map_len=16,
            max_array_len=MOST_CIPHERTEXTS,
            max_str_len=256,
            max_ext_len=0,
        )
        return kind.model_validate(fields)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"]) or "fields"
        raise EncryptionError(
            f"The {kind.__name__.lower()} has a wrong or missing field ({where}); send it again."
        ) from None
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError, MemoryError):
        raise EncryptionError(
            f"The body is no {kind.__name__.lower()} of this version; use a client and a server of the same version."
        ) from None


def digest_of(body: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def sign(private: Ed25519PrivateKey, kind: type[_Message], body: bytes) -> str:
    """The value of the signature header: 128 hexadecimal digits."""
    return private.sign(_statement(kind, body)).hex()


def is_signed(public: str, kind: type[_Message], body: bytes, signature: str | None) -> bool:
    """Whether `signature` is that of `body` under a public key in hexadecimal."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature or ""), _statement(kind, body))
    except (InvalidSignature, ValueError):
        return False
    return True


def sign_identity(private: Ed25519PrivateKey, nonce: str) -> str:
    """What GET /identity answers to a client's fresh nonce (32 hexadecimal digits): who holds the key now."""
    return private.sign(_identity_statement(nonce)).hex()


def is_identity(public: str, nonce: str, signature: str) -> bool:
    """Whether `signature` proves that who answered the nonce holds the key of `public`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _identity_statement(nonce))
    except (InvalidSignature, ValueError):
        return False
    return True


def _identity_statement(nonce: str) -> bytes:
    return b"primia diagnosis 1\0Identity\0" + nonce.encode()


def _statement(kind: type[_Message], body: bytes) -> bytes:
    return b"primia diagnosis 1\0" + kind.__name__.encode() + b"\0" + hashlib.sha256(body).digest()
