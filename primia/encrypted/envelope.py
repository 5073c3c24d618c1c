"""What SEAL wrote, unpacked and measured before SEAL reads it.

SEAL decompresses whatever it is given, level in level, and believes the counts it finds: a few megabytes can unpack to
many gigabytes. Every size in an object is known from the parameters, so anything else is refused here. The format is
SEAL 4's: a header of 16 bytes (magic, header size, version, compression, total size), then the members.
"""

import struct
from collections.abc import Sequence

import numpy as np
import zstandard

from primia.errors import EncryptionError

_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC, _PLAIN, _ZSTD = 0xA15E, 0, 2
_CIPHERTEXT = struct.Struct("<32sBQQQdQ")  # parameters, is NTT, polynomials, degree, primes, scale, correction factor
_PLAINTEXT = struct.Struct("<32sQd")  # parameters, coefficients, scale
_SEED_BYTES = 81  # a header, the kind of generator, 64 bytes of seed
_ROOM = 64


def unpacked(content: bytes, most: int, what: str) -> bytes:
    """The members of an object, decompressed to `most` bytes at most.

    Raises:
        EncryptionError: no object of SEAL, bytes before or after it, or too many in it.
    """
    if len(content) < _HEADER.size or int.from_bytes(content[8:16], "little") != len(content):
        raise EncryptionError(f"{what} is empty, cut off or has bytes to spare; send it again.")
    magic, size, major, _, compression, reserved, _ = _HEADER.unpack_from(content)
    if (magic, size, major, reserved) != (_MAGIC, _HEADER.size, 4, 0) or compression not in (_PLAIN, _ZSTD):
        raise EncryptionError(f"{what} is not in the format of SEAL 4; make it with primia.")
    body = memoryview(content)[_HEADER.size :]
    if compression == _PLAIN:
        members = bytes(body)
    else:
        try:
            with zstandard.ZstdDecompressor(max_window_size=1 << 23).stream_reader(body) as stream:
                members = stream.read(most + 1)
        except zstandard.ZstdError:
            raise EncryptionError(f"{what} is damaged; send it again.") from None
    if len(members) > most:
        raise EncryptionError(f"{what} unpacks to more than {most} bytes, which no honest one does; make it again.")
    return members


def repacked(members: bytes) -> bytes:
    """Members as an object without compression, for SEAL to read."""
    return _HEADER.pack(_MAGIC, _HEADER.size, 4, 3, _PLAIN, 0, _HEADER.size + len(members)) + members


def ciphertext_bytes(degree: int, primes: int) -> int:
    """Size of the members of a ciphertext, or public key, of two polynomials."""
    return _CIPHERTEXT.size + _HEADER.size + 8 + 2 * primes * degree * 8


def keys_bytes(degree: int, primes: int, elements: int) -> int:
    """Largest size of the members of key-switching keys for so many elements."""
    return 40 + 8 * degree + elements * (primes - 1) * (ciphertext_bytes(degree, primes) + _ROOM)


def is_ciphertext(members: bytes | memoryview, degree: int, primes: int) -> bool:
    """Whether members are those of a ciphertext of two polynomials, the second perhaps as a seed."""
    start = _CIPHERTEXT.size
    if len(members) < start + _HEADER.size + 8:
        return False
    _, _, polynomials, own_degree, own_primes, _, _ = _CIPHERTEXT.unpack_from(members)
    words = primes * degree
    full, seeded = start + 24 + 16 * words, start + 24 + 8 * words + _SEED_BYTES
    if (polynomials, own_degree, own_primes) != (2, degree, primes) or len(members) not in (full, seeded):
        return False
    held = 2 * words if len(members) == full else words
    if not _is_plain(members, start, 24 + 8 * held) or _count(members, start + _HEADER.size) != held:
        return False
    return len(members) == full or _is_plain(members, seeded - _SEED_BYTES, _SEED_BYTES)


def are_keys(members: bytes, degree: int, primes: int, indices: Sequence[int]) -> bool:
    """Whether members are key-switching keys for exactly these indices, of one ciphertext a digit."""
    if len(members) < 40 or _count(members, 32) > degree:
        return False
    view, position, found = memoryview(members), 40, []
    for index in range(_count(members, 32)):
        if position + 8 > len(members):
            return False
        digits = _count(members, position)
        position += 8
        if digits == 0:
            continue
        if digits != primes - 1:
            return False
        found.append(index)
        for _ in range(digits):
            size = _count(members, position + 8) if position + _HEADER.size <= len(members) else 0
            end = position + size
            if size < _HEADER.size or end > len(members) or not _is_plain(members, position, size):
                return False
            if not is_ciphertext(view[position + _HEADER.size : end], degree, primes):
                return False
            position = end
    return position == len(members) and found == sorted(indices)


def has_random_halves(members: bytes, degree: int, primes: int) -> bool:
    """Whether both polynomials of an unseeded public key look drawn at random: hardly any zero, hardly any twice."""
    if len(members) != ciphertext_bytes(degree, primes):  # a seeded one is shorter, by no whole number of words
        return False
    words = np.frombuffer(members, dtype="<u8", offset=_CIPHERTEXT.size + 24)
    return all(len(np.unique(residues)) > 0.99 * degree for residues in words.reshape(-1, degree))


def holds_secret(content: bytes, degree: int, primes: int) -> bool:
    """Whether bytes are a secret key of SEAL, or a context of TenSEAL with one in it."""
    if _has_field_three(content):
        return True
    size = _PLAINTEXT.size + 24 + 8 * primes * degree
    try:
        members = unpacked(content, size, "")
    except EncryptionError:
        return False
    if len(members) < _PLAINTEXT.size + 24:
        return False
    coefficients = _count(members, 32)
    return 0 < coefficients == _count(members, _PLAINTEXT.size + 16) and len(members) == (
        _PLAINTEXT.size + 24 + 8 * coefficients
    )


def _has_field_three(content: bytes) -> bool:
    """Walk the fields of a TenSEAL context (protobuf): parameters, public key and, as the third, the secret key."""
    position = 0
    for _ in range(8):
        tag, position = _varint(content, position)
        size, position = _varint(content, position)
        if tag & 7 != 2 or size == 0 or position + size > len(content):
            return False
        if tag >> 3 == 3:
            return b"\x5e\xa1\x10" in content[position : position + 16]  # SEAL's header
        position += size
    return False


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        if position >= len(content):
            return 0, position
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, position


def _count(members: bytes | memoryview, position: int) -> int:
    return int.from_bytes(members[position : position + 8], "little")


def _is_plain(members: bytes | memoryview, position: int, size: int) -> bool:
    magic, own, major, _, compression, _, total = _HEADER.unpack_from(members, position)
    return bool((magic, own, major, compression, total) == (_MAGIC, _HEADER.size, 4, _PLAIN, size))
