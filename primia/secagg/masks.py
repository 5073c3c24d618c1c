"""Masks as keystreams: HKDF-SHA256 derives a key, AES-256 in counter mode expands it to integers modulo 2^32."""

from collections.abc import Sequence

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from primia.secagg.session import Session, statement

Words = NDArray[np.uint32]

BLOCK = 1 << 18  # bytes of keystream at a time, so that a part of the vector stays in the cache for all its masks
_SLACK = 15  # update_into asks for a block less one byte of room
_ZEROS = memoryview(bytes(BLOCK))
_NONCE = bytes(16)  # a key serves one vector, so the counter may start at zero


def pair_mask_key(secret: bytes, session: Session, *, first: str, second: str, request: str) -> bytes:
    """AES key (32 bytes) of the mask that two sites share; the order of their names does not matter.

    `request` is the digest of what is answered. The masks of two sites that were sent different models therefore do
    not cancel, and the one with the odd model stays hidden (Pasquini et al. 2022), even if the coordinator
    leaves its signature out.
    """
    low, high = sorted((first, second))
    return derive_key(secret, statement("pair-mask", session, low, high, request))


def self_mask_key(seed: bytes, session: Session, *, name: str) -> bytes:
    """AES key (32 bytes) of a site's own mask, from its 32-byte seed."""
    return derive_key(seed, statement("self-mask", session, name, name))


def derive_key(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869) of a 32-byte secret: 32 bytes for the one purpose that `info` names."""
    assert len(secret) == 32
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


class Keystream:
    """The AES-256-CTR keystream of one key, read in pieces."""

    def __init__(self, key: bytes) -> None:
        """Raises ValueError if `key` is not 32 bytes long, so that a shorter key is never stretched unnoticed."""
        if len(key) != 32:
            raise ValueError("a mask key has 32 bytes")
        self._cipher = Cipher(algorithms.AES256(key), modes.CTR(_NONCE)).encryptor()

    def fill(self, buffer: bytearray, size: int) -> None:
        """Write the next `size` bytes, at most BLOCK, to the start of a buffer that came from `room`."""
        self._cipher.update_into(_ZEROS[:size], buffer)


def room(size: int) -> bytearray:
    """A buffer into which `Keystream.fill` can write `size` bytes."""
    return bytearray(size + _SLACK)


def add_keystreams(vector: Words, *, added: Sequence[bytes] = (), subtracted: Sequence[bytes] = ()) -> None:
    """Add or subtract, in place and modulo 2^32, the keystreams of 32-byte keys, read as little-endian words."""
    assert vector.dtype == np.uint32 and vector.ndim == 1
    streams = [(Keystream(key), np.add) for key in added] + [(Keystream(key), np.subtract) for key in subtracted]
    buffer = room(min(BLOCK, vector.nbytes))
    for start in range(0, len(vector), BLOCK // 4):
        part = vector[start : start + BLOCK // 4]
        words = np.frombuffer(buffer, dtype="<u4", count=len(part))
        for stream, apply in streams:
            stream.fill(buffer, part.nbytes)
            apply(part, words, out=part)
