"""Masks as keystreams: HKDF-SHA256 derives a key, AES-256 in counter mode expands it to integers modulo 2^32."""

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from primia.secagg.session import Session, statement

Words = NDArray[np.uint32]

_BLOCK = 1 << 20  # bytes; larger buffers fall out of the cache and cost three times as much
_SLACK = 15  # update_into asks for a block less one byte of room
_ZEROS = bytes(_BLOCK)
_NONCE = bytes(16)  # a key serves one vector, so the counter may start at zero


def pair_mask_key(secret: bytes, session: Session, *, first: str, second: str) -> bytes:
    """AES key (32 bytes) of the mask that two sites share; the order of their names does not matter."""
    low, high = sorted((first, second))
    return _derive(secret, statement("pair-mask", session, low, high))


def self_mask_key(seed: bytes, session: Session, *, name: str) -> bytes:
    """AES key (32 bytes) of a site's own mask, from its 32-byte seed."""
    return _derive(seed, statement("self-mask", session, name, name))


def _derive(secret: bytes, info: bytes) -> bytes:
    assert len(secret) == 32
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(secret)


def add_keystream(vector: Words, key: bytes, *, subtract: bool = False) -> None:
    """Add to `vector`, in place and modulo 2^32, the AES-256-CTR keystream of `key` read as little-endian words.

    Raises:
        ValueError: `key` is not 32 bytes long, so that a shorter key can never be stretched unnoticed.
    """
    if len(key) != 32:
        raise ValueError("a mask key has 32 bytes")
    assert vector.dtype == np.uint32 and vector.ndim == 1
    stream = Cipher(algorithms.AES256(key), modes.CTR(_NONCE)).encryptor()
    buffer = bytearray(min(_BLOCK, 4 * len(vector)) + _SLACK)
    apply = np.subtract if subtract else np.add
    for start in range(0, len(vector), _BLOCK // 4):
        part = vector[start : start + _BLOCK // 4]
        stream.update_into(memoryview(_ZEROS)[: part.nbytes], buffer)
        apply(part, np.frombuffer(buffer, dtype="<u4", count=len(part)), out=part)
