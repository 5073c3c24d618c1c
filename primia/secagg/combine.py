"""The coordinator's arithmetic: the sum of masked vectors, and its masks removed with the shares of round 4."""

import hmac
from collections.abc import Mapping, Sequence

import numpy as np

from primia.errors import FederationError
from primia.secagg import graph, shamir
from primia.secagg.keys import SessionKey, SignedKeys
from primia.secagg.masks import Words, add_keystreams, pair_mask_key, self_mask_key
from primia.secagg.session import Session
from primia.secagg.sharing import COMMITMENT_BYTES, commitment


class RecoveryError(FederationError):
    """The masks of `owner` cannot be removed; `false` says which holders gave false shares, and of whom."""

    def __init__(self, owner: str, reason: str, *, false: Mapping[str, str]) -> None:
        super().__init__(f"The masks of {owner} cannot be removed: {reason}; start a new attempt with fresh keys.")
        self.owner, self.false = owner, dict(false)


def sum_of(vectors: Mapping[str, Words]) -> Words:
    """Sum modulo 2^32 over sites; the pairwise masks between them cancel, all others remain."""
    first, *others = vectors.values()
    total = first.copy()
    for vector in others:
        total += vector
    return total


def unmask(
    total: Words,
    *,
    session: Session,
    keys: Mapping[str, SignedKeys],
    commitments: Mapping[str, Mapping[str, bytes]],
    cohort: Sequence[str],
    survivors: Sequence[str],
    revealed: Mapping[str, Mapping[str, bytes]],
    threshold: int,
    request: str,
) -> dict[str, str]:
    """Remove from `total`, in place, the self-masks of the survivors and the masks they share with dropped sites.

    `keys` are those of round 0, `commitments` (owner to holder to 64 bytes) those of round 1, `cohort` the sites of
    round 2, `revealed` (holder to owner to 33-byte share) the answers of round 4, `threshold` the plan's,
    `request` the digest of the request of round 2.

    Returns:
        The holders whose shares did not match their commitments, with the reason; their shares were not used. Where
        more than a third of the sites would have lied about one owner, the owner is to blame and they are not named.

    Raises:
        RecoveryError: too few good shares of an owner, or they give another key than the one it advertised. `total`
            is then unchanged.
    """
    assert total.dtype == np.uint32
    false: dict[str, str] = {}
    alive = set(survivors)
    secrets = {}
    places = {name: place for place, name in enumerate(sorted(keys), start=1)}
    needed = graph.sharing_threshold(len(keys), plan_threshold=threshold)
    for owner in sorted(cohort):
        good, odd = {}, {}
        for holder in sorted(revealed):
            share = revealed[holder].get(owner)
            if share is None:
                continue
            expected = commitments.get(owner, {}).get(holder, b"")
            if _matches(share, expected, session, owner=owner, holder=holder, survived=owner in alive):
                good[places[holder]] = share
            else:
                odd[holder] = f"its share of {owner} does not match the commitment"
        if len(odd) <= (len(keys) - 1) // 3:  # more liars than that are not assumed, so it is the owner who lied
            false |= odd
        if len(good) < needed:
            mismatched = f" (those of {', '.join(odd)} do not match)" if odd else ""
            raise RecoveryError(owner, f"{len(good)} good shares are fewer than {needed}{mismatched}", false=false)
        try:
            secrets[owner] = shamir.combine(good, threshold=needed)
        except ValueError as error:
            raise RecoveryError(owner, str(error), false=false) from None
    recovered = {name: SessionKey(secrets[name]) for name in cohort if name not in alive}
    for name, key in recovered.items():
        if not hmac.compare_digest(key.public, keys[name].mask):
            raise RecoveryError(name, "its shares give another key than it advertised", false=false)
    added: list[bytes] = []
    subtracted = [self_mask_key(secrets[name], session, name=name) for name in survivors]
    neighbours = graph.neighbours(keys.values(), session=session)
    for name, key in recovered.items():
        for survivor in alive.intersection(neighbours[name]):
            mask = pair_mask_key(key.agree(keys[survivor].mask), session, first=name, second=survivor, request=request)
            # The survivor added this mask if the dropped name is the greater one; see Participant.mask.
            (subtracted if name > survivor else added).append(mask)
    add_keystreams(total, added=added, subtracted=subtracted)
    return false


def _matches(share: bytes, expected: bytes, session: Session, *, owner: str, holder: str, survived: bool) -> bool:
    if len(share) != shamir.SHARE_BYTES or len(expected) != COMMITMENT_BYTES:
        return False
    kind, part = ("seed", expected[:32]) if survived else ("mask-key", expected[32:])
    return hmac.compare_digest(commitment(share, session, kind=kind, owner=owner, holder=holder), part)
