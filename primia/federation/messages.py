"""The closed set of questions a site can be asked, and its answers. No message carries code."""

from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from primia.secagg.keys import KEY_BYTES, SIGNATURE_BYTES, SignedKeys
from primia.secagg.session import Session
from primia.secagg.shamir import SHARE_BYTES
from primia.secagg.sharing import SEALED_BYTES, Sealed

PROTOCOL: Final = 5
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
Weights = Annotated[tuple[Annotated[float, Field(ge=0.0, le=1e6)], ...], Field(max_length=32)]
SealedShares = Annotated[bytes, Field(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
PublicGroupKey = Annotated[bytes, Field(max_length=1 << 10)]
SealedSecret = Annotated[bytes, Field(max_length=1 << 20)]
Share = Annotated[bytes, Field(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]


class Message(BaseModel):
    """Base of all messages: frozen, no unknown fields, no conversion between types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Describe(Message):
    """Who are you? Asked once, before there is a plan."""

    protocol: Literal[5] = PROTOCOL


class Join(Message):
    """Check this plan (canonical JSON) and take part in it.

    `teacher` holds the weights of the plan's teacher, as one float32 vector in sorted parameter-name order; None if the
    plan teaches no student.
    """

    plan: Annotated[bytes, Field(max_length=1 << 20)]
    teacher: Vector | None = None


class AdvertiseKeys(Message):
    """Round 0: make two fresh key pairs for this session and sign them."""

    session: Session


class ShareKeys(Message):
    """Round 1: everybody's keys for this session; deal shares of your secrets.

    `model` is the digest of the model that will be asked about, None for statistics: a site refuses a cohort here
    that could only end in a sum it must not give.
    """

    session: Session
    model: Digest | None
    keys: Annotated[tuple[SignedKeys, ...], Field(max_length=MAX_SITES)]


class MakeGroupKey(Message):
    """Scheme ckks, after round 1: make the session's encryption key and seal it for everybody with keys."""

    session: Session


class SealedGroupKey(Message):
    """The group's key as one hospital receives it."""

    maker: Name
    public: PublicGroupKey
    secret: SealedSecret


class DeliverShares(Message):
    """Start of round 2: the hospitals that dealt shares, and those that were sealed for you, by sender.

    With the scheme ckks the group's key, which one of them made, comes along; its maker has it already.
    """

    session: Session
    cohort: Names
    shares: Annotated[dict[Name, SealedShares], Field(max_length=MAX_SITES)]
    group_key: SealedGroupKey | None = None


class Statistics(Message):
    """Send the masked count and moments of the training images, and their label counts if the plan weighs classes."""

    session: Session
    plan: Digest


class Train(Message):
    """Train the given model on the training images and send the masked, quantised change.

    `model` is one float32 vector in sorted parameter-name order; `total_weight` bounds the sum of all weights. The
    hospitals in `counted` took part in the statistics, which told the sum of their weights; any other one may weigh
    at most `spare`. `class_weights` come from the securely summed label counts, if the plan weighs classes.
    """

    session: Session
    plan: Digest
    model: Vector
    model_digest: Digest
    mean: Finite
    std: Annotated[Finite, Field(gt=0.0)]
    total_weight: Annotated[int, Field(ge=1, lt=2**31)]
    counted: Names
    spare: Annotated[int, Field(ge=0, lt=2**31)]
    class_weights: Weights | None


class Evaluate(Message):
    """Send the masked confusion counts, or overlaps, and loss of the given model on the validation images."""

    session: Session
    plan: Digest
    model: Vector
    model_digest: Digest
    mean: Finite
    std: Annotated[Finite, Field(gt=0.0)]


class Consistency(Message):
    """Round 3: these sites' vectors have arrived; sign the set."""

    session: Session
    survivors: Names


class Unmask(Message):
    """Round 4: enough of the survivors signed; reveal your shares of what removes the masks.

    A name is a survivor (its self-mask goes) or dropped (its pairwise masks go), never both.
    """

    session: Session
    survivors: Names
    dropped: Names
    signatures: Annotated[dict[Name, Signature], Field(max_length=MAX_SITES)]


class DecryptSum(Message):
    """Scheme ckks, after round 2: decrypt this sum. Its masks are still on it, so it says nothing yet."""

    session: Session
    total: Vector
    words: Annotated[int, Field(ge=1, lt=2**29)]


class ReadLedger(Message):
    """Send the privacy spent on this run and on all runs of the source, and this run's lines of the ledger."""


class Description(Message):
    """A site's public facts; `data` is a keyed hash of its files, comparable only with itself.

    `depth` is the number of slices of an image that is a volume, None for flat images.
    """

    name: Name
    identity: Key
    data: Digest
    classes: Annotated[tuple[str, ...], Field(max_length=32)]
    pixels: int
    depth: int | None = None


class Joined(Message):
    """The site agrees to the plan with this digest."""

    plan: Digest


class KeyAdvert(Message):
    """The signed keys for this session."""

    session: Session
    keys: SignedKeys


class Shares(Message):
    """The keys are accepted; the site's secrets, shared and sealed for each recipient."""

    session: Session
    sealed: Sealed


class Accepted(Message):
    """The shares have arrived whole; the masked vector may be asked for."""

    session: Session


class GroupKey(Message):
    """What the coordinator may know of the key, and the secret sealed for each hospital."""

    session: Session
    public: PublicGroupKey
    sealed: Annotated[dict[Name, SealedSecret], Field(max_length=MAX_SITES)]


class MaskedInput(Message):
    """The answer to `Statistics`, `Train` and `Evaluate`: one vector of 32-bit words, with ckks encrypted."""

    session: Session
    vector: Vector


class DecryptedSum(Message):
    """The sum of the masked vectors, as 32-bit words."""

    session: Session
    vector: Vector


class Signed(Message):
    """The signature of this session's transcript."""

    session: Session
    signature: Signature


class Revealed(Message):
    """By owner: the share of a survivor's self-mask, or of a dropped site's mask key."""

    session: Session
    shares: Annotated[dict[Name, Share], Field(max_length=MAX_SITES)]


class LedgerReport(Message):
    """Privacy spent per patient at one site: epsilon of this run and of all runs of the source so far.

    `steps` and `attempts` count what was charged for training, repetitions included; `text` holds the ledger's lines of
    this run, and no patient data. Phantoms and patients are never counted together.
    """

    epsilon: Annotated[Finite, Field(ge=0.0)]
    steps: Annotated[int, Field(ge=0)]
    attempts: Annotated[int, Field(ge=0)]
    epsilon_all_runs: Annotated[Finite, Field(ge=0.0)] = 0.0
    text: Annotated[str, Field(max_length=MAX_LEDGER_CHARACTERS)] = ""


class Refusal(Message):
    """The site does not do what it was asked, and says why.

    `cohort` names the only hospitals with which the site gives the sum once more, where that is the reason.
    """

    kind: Literal["budget", "cohort", "privacy", "protocol", "refusal", "data", "config", "federation"]
    reason: Annotated[str, Field(max_length=2000)]
    cohort: Names = ()


Request = (
    Describe
    | Join
    | AdvertiseKeys
    | ShareKeys
    | MakeGroupKey
    | DeliverShares
    | Statistics
    | Train
    | Evaluate
    | DecryptSum
    | Consistency
    | Unmask
    | ReadLedger
)
MaskedRequest = Statistics | Train | Evaluate
SessionRequest = (
    AdvertiseKeys | ShareKeys | MakeGroupKey | DeliverShares | MaskedRequest | DecryptSum | Consistency | Unmask
)
SessionResponse = KeyAdvert | Shares | GroupKey | Accepted | MaskedInput | DecryptedSum | Signed | Revealed
Response = Description | Joined | SessionResponse | LedgerReport | Refusal
R = TypeVar("R", bound=Message)


def model_of(request: MaskedRequest) -> str | None:
    """Digest of the model a request asks about; None for statistics."""
    return None if isinstance(request, Statistics) else request.model_digest
