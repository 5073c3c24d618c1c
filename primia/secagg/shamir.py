"""Shamir's secret sharing (CACM 1979): any `threshold` shares give the secret, fewer say nothing about it."""

import secrets
from collections.abc import Mapping, Sequence

PRIME = 2**256 + 297  # the smallest prime above every 32-byte secret
SECRET_BYTES = 32
SHARE_BYTES = 33  # a field element, big-endian


def split(secret: bytes, *, threshold: int, holders: Sequence[int]) -> dict[int, bytes]:
    """Shares of a 32-byte `secret`, one per holder.

    A holder is its position x >= 1; its share is f(x) for a random polynomial f of degree threshold - 1 over the
    field of PRIME elements with f(0) = secret.
    """
    assert len(secret) == SECRET_BYTES
    assert 1 <= threshold <= len(holders) == len(set(holders)) and min(holders) >= 1
    coefficients = [int.from_bytes(secret), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {x: _evaluate(coefficients, x).to_bytes(SHARE_BYTES) for x in holders}


def combine(shares: Mapping[int, bytes], *, threshold: int) -> bytes:
    """The 32-byte secret behind at least `threshold` shares, by Lagrange interpolation at 0.

    Raises:
        ValueError: too few shares, a share that is no field element, or shares of no 32-byte secret.
    """
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares do not give a secret shared among {threshold}")
    used = {x: shares[x] for x in sorted(shares)[:threshold]}
    secret = 0
    for x, share in used.items():
        value = int.from_bytes(share)
        if len(share) != SHARE_BYTES or value >= PRIME:
            raise ValueError("a share is no element of the field")
        numerator = denominator = 1
        for other in used:
            if other != x:
                numerator *= other
                denominator *= other - x
        secret += value * numerator * pow(denominator, -1, PRIME)
    secret %= PRIME
    if secret >= 1 << (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong to one secret of 32 bytes")
    return secret.to_bytes(SECRET_BYTES)


def _evaluate(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
