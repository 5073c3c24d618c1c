"""Vectors of 32-bit words as the bytes that travel: little-endian, one after another."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from primia.errors import ProtocolError
from primia.secagg.masks import Words


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
