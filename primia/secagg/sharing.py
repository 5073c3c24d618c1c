"""Round 1: a site's two secrets, shared among its neighbours, each share sealed for its holder."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from pydantic import BaseModel, ConfigDict, Field

from primia.errors import ProtocolError
from primia.secagg import shamir
from primia.secagg.masks import derive_key
from primia.secagg.session import Session, statement

_NONCE = bytes(12)  # a key seals one message, so the nonce may be constant
_TAG_BYTES = 16
SEALED_BYTES = 2 * shamir.SHARE_BYTES + _TAG_BYTES
COMMITMENT_BYTES = 64

_Name = Annotated[str, Field(min_length=1, max_length=32)]
_Ciphertext = Annotated[bytes, Field(min_length=SEALED_BYTES, max_length=SEALED_BYTES)]
_Commitment = Annotated[bytes, Field(min_length=COMMITMENT_BYTES, max_length=COMMITMENT_BYTES)]


class Sealed(BaseModel):
    """What a site sends in round 1: a ciphertext per neighbour, and commitments to every holder's two shares.

    The site holds a share of its own secrets too; that one is committed to and never sent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    shares: dict[_Name, _Ciphertext]
    commitments: dict[_Name, _Commitment]


@dataclass(frozen=True, repr=False)
class Pair:
    """One holder's shares (33 bytes each) of an owner's self-mask seed and of its private mask key."""

    seed: bytes
    mask_key: bytes

    def commitment(self, session: Session, *, owner: str, holder: str) -> bytes:
        """64 bytes by which the coordinator knows a true share when it is revealed; hiding, as shares are random."""
        return commitment(self.seed, session, kind="seed", owner=owner, holder=holder) + commitment(
            self.mask_key, session, kind="mask-key", owner=owner, holder=holder
        )


def commitment(share: bytes, session: Session, *, kind: str, owner: str, holder: str) -> bytes:
    """SHA-256 commitment (32 bytes) to one share."""
    return hashlib.sha256(statement(f"share-of-{kind}", session, owner, holder, share)).digest()


def split(seed: bytes, mask_key: bytes, *, threshold: int, places: Mapping[str, int]) -> dict[str, Pair]:
    """Share both 32-byte secrets among the holders, who stand at `places` (name to position, from 1)."""
    holders = list(places.values())
    seeds = shamir.split(seed, threshold=threshold, holders=holders)
    keys = shamir.split(mask_key, threshold=threshold, holders=holders)
    return {name: Pair(seeds[place], keys[place]) for name, place in places.items()}


def seal(pair: Pair, secret: bytes, session: Session, *, sender: str, recipient: str, keys: bytes) -> bytes:
    """Encrypt (RFC 8439) two shares under the `secret` that sender and recipient agreed on.

    `keys` is the digest of all keys of round 0: sites that were told different keys cannot open each other's shares.
    """
    cipher, context = _cipher(secret, session, sender=sender, recipient=recipient, keys=keys)
    return cipher.encrypt(_NONCE, pair.seed + pair.mask_key, context)


def unseal(sealed: bytes, secret: bytes, session: Session, *, sender: str, recipient: str, keys: bytes) -> Pair:
    """Decrypt what `seal` made.

    Raises:
        ProtocolError: the ciphertext was changed, is another's or another session's, or has the wrong length.
    """
    cipher, context = _cipher(secret, session, sender=sender, recipient=recipient, keys=keys)
    try:
        plain = cipher.decrypt(_NONCE, sealed, context) if len(sealed) == SEALED_BYTES else None
    except InvalidTag:
        plain = None
    if plain is None:
        raise ProtocolError(
            f"The shares that {sender} sealed for {recipient} do not open: they were changed on the way, belong to "
            f"another session than {session}, or {sender} was told other keys; start a new attempt without it."
        )
    return Pair(plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :])


def _cipher(
    secret: bytes, session: Session, *, sender: str, recipient: str, keys: bytes
) -> tuple[ChaCha20Poly1305, bytes]:
    # The key is different in both directions, so that two messages are never sealed alike.
    context = statement("sealed-shares", session, sender, recipient, keys)
    return ChaCha20Poly1305(derive_key(secret, context)), context
