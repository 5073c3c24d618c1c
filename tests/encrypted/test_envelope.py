"""What could exhaust a server is refused before SEAL sees it."""

import struct

import msgpack
import pytest
import zstandard

from primia.encrypted import envelope
from primia.errors import EncryptionError

DEGREE, PRIMES = 8192, 7
HEADER = struct.Struct("<HBBBBHQ")


def compressed(members: bytes) -> bytes:
    body = zstandard.ZstdCompressor().compress(members)
    return HEADER.pack(0xA15E, 16, 4, 3, 2, 0, 16 + len(body)) + body


@pytest.fixture(scope="module")
def galois(small) -> bytes:
    return envelope.unpacked(msgpack.unpackb(small.key_bytes)["galois"], 1 << 28, "it")


@pytest.fixture(scope="module")
def indices(small) -> list[int]:
    return [(element - 1) // 2 for element in small.bundle.specification.parameters.galois_elements]


def test_what_seal_wrote_is_unpacked_and_packed_again(small) -> None:
    members = envelope.unpacked(small.fresh, 1 << 24, "it")
    assert envelope.is_ciphertext(members, DEGREE, PRIMES - 1)
    assert envelope.unpacked(envelope.repacked(members), 1 << 24, "it") == members
    assert small.engine.scheme.load_fresh(envelope.repacked(members)).size() == 2


def test_a_bomb_is_refused_without_being_unpacked(small) -> None:
    bomb = compressed(bytes(1 << 28))
    assert len(bomb) < 1 << 16
    with pytest.raises(EncryptionError, match="The encrypted image unpacks to more than"):
        small.engine.scheme.load_fresh(bomb)
    parts = msgpack.unpackb(small.key_bytes)
    for name in parts:
        with pytest.raises(EncryptionError, match=f"The {name} part of the evaluation keys unpacks to more than"):
            small.engine.scheme.load_keys(msgpack.packb(parts | {name: bomb}))


@pytest.mark.parametrize("change", [{0: 0x5F}, {3: 3}, {5: 1}, {5: 7}, {6: 1}])
def test_a_header_that_is_not_seals_is_refused(small, change) -> None:
    content = bytearray(small.fresh)
    for position, value in change.items():
        content[position] = value
    with pytest.raises(EncryptionError, match="not in the format of SEAL 4"):
        envelope.unpacked(bytes(content), 1 << 24, "It")


def test_exactly_the_keys_asked_for_are_taken(galois, indices) -> None:
    assert envelope.are_keys(galois, DEGREE, PRIMES, indices)
    assert not envelope.are_keys(galois, DEGREE, PRIMES, indices[1:])
    assert not envelope.are_keys(galois, DEGREE, PRIMES, [*indices, 8190])
    assert not envelope.are_keys(galois[:-1], DEGREE, PRIMES, indices)
    assert not envelope.are_keys(galois + b"\0", DEGREE, PRIMES, indices)


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (32, 1 << 40),  # elements
        (32, 5),
        (40 + 8, 1 << 40),  # digits of the first element with a key
        (40 + 8, 5),
    ],
)
def test_counts_that_promise_more_than_there_is_are_refused(galois, indices, position, value) -> None:
    changed = bytearray(galois)
    changed[position : position + 8] = struct.pack("<Q", value)
    assert not envelope.are_keys(bytes(changed), DEGREE, PRIMES, indices)


def test_keys_compressed_once_more_inside_are_refused(galois, indices) -> None:
    changed = bytearray(galois)
    first = galois.index(b"\x5e\xa1\x10")
    assert changed[first + 5] == 0
    changed[first + 5] = 2
    assert not envelope.are_keys(bytes(changed), DEGREE, PRIMES, indices)


@pytest.mark.parametrize("content", [b"", b"\x1a", b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", b"\x0a\x00" * 20])
def test_bytes_of_no_kind_hold_no_secret(content) -> None:
    assert not envelope.holds_secret(content, DEGREE, PRIMES)
