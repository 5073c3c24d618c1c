"""The closed set of questions a site can be asked, its answers, and their strict msgpack encoding.

A message is `[kind, fields]`; whatever is not exactly one of these types with fields in range ends in one
`ProtocolError`. No message carries code, and none is ever unpickled.
"""

import hashlib
from typing import Annotated, Any, Final, Literal, TypeVar, cast

import msgpack
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from primia.errors import ProtocolError
from primia.secagg.keys import KEY_BYTES, SIGNATURE_BYTES, SignedKey
from primia.secagg.masks import Words
from primia.secagg.session import Session

PROTOCOL: Final = 1
MAX_VECTOR_BYTES = 1 << 29  # 134 million parameters
MAX_MESSAGE_BYTES = MAX_VECTOR_BYTES + (1 << 20)
MAX_LEDGER_CHARACTERS = 1 << 24
MAX_SITES = 100

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Vector = Annotated[bytes, Field(max_length=MAX_VECTOR_BYTES)]  # little-endian 32-bit words
Key = Annotated[bytes, Field(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Signature = Annotated[bytes, Field(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_SITES)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Message(BaseModel):
    """Base of all messages: frozen, no unknown fields, no conversion between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Describe(Message):
    """Who are you? Asked once, before there is a plan."""

    protocol: Literal[1] = PROTOCOL


class Join(Message):
    """Check this plan (canonical JSON) and take part in it."""

    plan: Annotated[bytes, Field(max_length=1 << 20)]


class AdvertiseKeys(Message):
    """Make a fresh mask key for this session and sign it."""

    session: Session


class ShareKeys(Message):
    """Everybody's mask keys for this session."""

    session: Session
    keys: Annotated[tuple[SignedKey, ...], Field(max_length=MAX_SITES)]


class Statistics(Message):
    """Send the masked count and moments of the training images."""

    session: Session
    plan: Digest


class Train(Message):
    """Train the given model on the training images and send the masked, quantised change.

    `model` is one float32 vector in sorted parameter-name order; `total_weight` is the public sum of all weights.
    """

    session: Session
    plan: Digest
    model: Vector
    model_digest: Digest
    mean: Finite
    std: Annotated[Finite, Field(gt=0.0)]
    total_weight: Annotated[int, Field(ge=1, lt=2**31)]


class Evaluate(Message):
    """Send the masked confusion counts and loss of the given model on the validation images."""

    session: Session
    plan: Digest
    model: Vector
    model_digest: Digest
    mean: Finite
    std: Annotated[Finite, Field(gt=0.0)]


class Consistency(Message):
    """These sites' vectors have arrived: sign the set."""

    session: Session
    survivors: Names


class Unmask(Message):
    """Everybody signed: reveal what removes the masks.

    A name is a survivor (its self-mask goes) or dropped (its pairwise masks go), never both. Recovery of dropped
    sites needs Shamir shares, which this protocol version does not deal: `dropped` must be empty.
    """

    session: Session
    survivors: Names
    dropped: Names = ()
    signatures: Annotated[dict[Name, Signature], Field(max_length=MAX_SITES)]


class ReadLedger(Message):
    """Send the privacy spent on this run, and the ledger itself if `text` is set."""

    text: bool


class Description(Message):
    """A site's public facts; `data` is a keyed hash of its files, comparable only with itself."""

    name: Name
    identity: Key
    data: Digest
    classes: Annotated[tuple[str, ...], Field(max_length=32)]
    pixels: int


class Joined(Message):
    """The site agrees to the plan with this digest."""

    plan: Digest


class KeyAdvert(Message):
    """The signed mask key for this session."""

    session: Session
    key: SignedKey


class Shares(Message):
    """The keys are accepted. `shares` has room for one encrypted share per recipient and is empty in this version."""

    session: Session
    shares: Annotated[dict[Name, bytes], Field(max_length=0)] = {}


class MaskedInput(Message):
    """The answer to `Statistics`, `Train` and `Evaluate`: one vector of 32-bit words."""

    session: Session
    vector: Vector


class Signed(Message):
    """The signature of this session's transcript."""

    session: Session
    signature: Signature


class SelfMask(Message):
    """The seed of the site's own mask."""

    session: Session
    seed: Key


class LedgerReport(Message):
    """Privacy spent per patient at one site on this run: epsilon, steps, and releases charged (repetitions included).

    The last two fields, epsilon of all runs so far and the ledger's lines, are sent when the
    text is asked for. A ledger holds no patient data.
    """

    epsilon: Annotated[Finite, Field(ge=0.0)]
    steps: Annotated[int, Field(ge=0)]
    attempts: Annotated[int, Field(ge=0)]
    epsilon_all_runs: Annotated[Finite, Field(ge=0.0)] = 0.0
    text: Annotated[str, Field(max_length=MAX_LEDGER_CHARACTERS)] = ""


class Refusal(Message):
    """The site does not do what it was asked, and says why."""

    kind: Literal["budget", "privacy", "protocol", "refusal", "data", "config", "federation"]
    reason: Annotated[str, Field(max_length=2000)]


Request = (
    Describe | Join | AdvertiseKeys | ShareKeys | Statistics | Train | Evaluate | Consistency | Unmask | ReadLedger
)
MaskedRequest = Statistics | Train | Evaluate
SessionRequest = AdvertiseKeys | ShareKeys | MaskedRequest | Consistency | Unmask
Response = Description | Joined | KeyAdvert | Shares | MaskedInput | Signed | SelfMask | LedgerReport | Refusal
R = TypeVar("R", bound=Message)

_REQUESTS = {kind.__name__: kind for kind in Request.__args__}
_RESPONSES = {kind.__name__: kind for kind in Response.__args__}


def encode(message: Message) -> bytes:
    """msgpack bytes of a message."""
    return bytes(msgpack.packb([type(message).__name__, message.model_dump()]))


def decode_request(raw: bytes | bytearray) -> Request:
    """Read a request; anything else is a `ProtocolError`."""
    return cast(Request, _decode(raw, _REQUESTS))


def decode_response(raw: bytes | bytearray) -> Response:
    """Read a response; anything else is a `ProtocolError`."""
    return cast(Response, _decode(raw, _RESPONSES))


def _decode(raw: bytes | bytearray, kinds: dict[str, type[Any]]) -> Any:
    try:
        kind, fields = msgpack.unpackb(
            raw,
            use_list=False,
            strict_map_key=True,
            max_bin_len=MAX_VECTOR_BYTES,
            max_str_len=MAX_LEDGER_CHARACTERS,
            max_array_len=1024,
            max_map_len=1024,
            max_ext_len=0,
        )
        return kinds[kind].model_validate(fields)
    except ValidationError as error:
        # The value itself stays out of the sentence: it may be megabytes, or a secret.
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise ProtocolError(f"A {kind} message has a wrong or missing field: {where or 'fields'}.") from None
    except (ValueError, TypeError, KeyError, msgpack.UnpackException, RecursionError):
        raise ProtocolError(f"{len(raw)} bytes are not a message of protocol version {PROTOCOL}.") from None


def content_digest(request: MaskedRequest) -> str:
    """SHA-256 of a request apart from its attempt: equal for a repetition, different for another question."""
    first = request.model_copy(update={"session": request.session.model_copy(update={"attempt": 1})})
    return hashlib.sha256(encode(first)).hexdigest()


def words_to_bytes(words: Words | NDArray[np.float32]) -> bytes:
    """Little-endian bytes of a vector of 32-bit words."""
    return words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes()


def bytes_to_words(raw: bytes) -> Words:
    """The writable uint32 vector in `raw`.

    Raises:
        ProtocolError: the length is no multiple of four.
    """
    return _vector(raw, "<u4").astype(np.uint32)


def bytes_to_floats(raw: bytes) -> NDArray[np.float32]:
    """The writable float32 vector in `raw`.

    Raises:
        ProtocolError: the length is no multiple of four.
    """
    return _vector(raw, "<f4").astype(np.float32)


def _vector(raw: bytes, dtype: str) -> NDArray[Any]:
    if len(raw) % 4:
        raise ProtocolError(f"A vector of {len(raw)} bytes does not consist of 32-bit words.")
    return np.frombuffer(raw, dtype=dtype)
