"""Sums under CKKS: exact integers out of an approximate scheme, and nothing foreign is ever added."""

import msgpack
import numpy as np
import pytest

from primia.errors import ProtocolError
from primia.secagg.combine import sum_of
from primia.secagg.homomorphic import _PUBLIC, WORDS_PER_CIPHERTEXT, Adder, KeyHolder, _fingerprint, generate

WORDS = WORDS_PER_CIPHERTEXT + 5  # a full ciphertext and a nearly empty one
LARGEST = 2**31 - 1
HEADER = 40  # fingerprint of the key, number of words


@pytest.fixture(scope="module")
def keys() -> tuple[bytes, bytes]:
    return generate()


@pytest.fixture(scope="module")
def adder(keys) -> Adder:
    return Adder(keys[1])


@pytest.fixture(scope="module")
def holder(keys) -> KeyHolder:
    return KeyHolder(*keys)


@pytest.fixture(scope="module")
def vector(holder) -> bytes:
    return holder.encrypt(np.arange(WORDS, dtype=np.uint32))


def words_of(values: np.ndarray) -> np.ndarray:
    return values.astype(np.int64).astype(np.uint32)


def test_the_sum_over_sites_is_that_of_masking_bit_for_bit(keys, adder, holder) -> None:
    generator = np.random.default_rng(1)
    vectors = {name: generator.integers(0, 2**32, WORDS, dtype=np.uint32) for name in ("a", "b", "c")}
    encrypted = {name: KeyHolder(*keys).encrypt(words) for name, words in vectors.items()}
    total = holder.decrypt(adder.add(encrypted, words=WORDS), words=WORDS)
    assert total.dtype == np.uint32
    np.testing.assert_array_equal(total, sum_of(vectors))


@pytest.mark.parametrize("pattern", ["all at the top", "all at the bottom", "alternating", "random"])
def test_sums_up_to_the_largest_word_are_exact(adder, holder, pattern) -> None:
    signs = {
        "all at the top": np.ones(WORDS),
        "all at the bottom": -np.ones(WORDS),
        "alternating": np.where(np.arange(WORDS) % 2, 1, -1),
        "random": np.random.default_rng(2).choice([-1, 1], WORDS),
    }[pattern]
    halves = (signs * (LARGEST // 2), signs * (LARGEST - LARGEST // 2))
    encrypted = {str(index): holder.encrypt(words_of(half)) for index, half in enumerate(halves)}
    total = holder.decrypt(adder.add(encrypted, words=WORDS), words=WORDS)
    np.testing.assert_array_equal(total.view(np.int32), signs * LARGEST)


@pytest.mark.parametrize("doublings", [0, 10])
def test_the_error_before_rounding_is_far_below_one_half(adder, holder, monkeypatch, doublings) -> None:
    # a thousand sites whose words are all as large as they can be
    values = np.random.default_rng(3).choice([-LARGEST, LARGEST], WORDS)
    total = holder.encrypt(words_of(values))
    for _ in range(doublings):
        total = adder.add({"a": total, "b": total}, words=WORDS)
    monkeypatch.setattr("primia.secagg.homomorphic.LARGEST_ERROR", 1 / 64)
    expected = words_of(values << doublings)
    np.testing.assert_array_equal(holder.decrypt(total, words=WORDS), expected)


@pytest.mark.parametrize("words", [1, WORDS_PER_CIPHERTEXT - 1, WORDS_PER_CIPHERTEXT])
def test_vectors_of_any_length_are_summed(adder, holder, words) -> None:
    own = np.full(words, 2**32 - 1, dtype=np.uint32)
    other = np.arange(words, dtype=np.uint32)
    total = adder.add({"a": holder.encrypt(own), "b": holder.encrypt(other)}, words=words)
    np.testing.assert_array_equal(holder.decrypt(total, words=words), own + other)


def test_a_site_that_drops_out_is_simply_not_in_the_sum(adder, holder, vector) -> None:
    ones = np.ones(WORDS, dtype=np.uint32)
    total = adder.add({"b": vector, "c": holder.encrypt(ones)}, words=WORDS)
    np.testing.assert_array_equal(holder.decrypt(total, words=WORDS), np.arange(WORDS) + 1)


def test_the_same_words_never_give_the_same_bytes(holder, vector) -> None:
    assert holder.encrypt(np.arange(WORDS, dtype=np.uint32)) != vector


def test_the_public_bytes_do_not_hold_the_secret(keys) -> None:
    secret, public = keys
    assert len(public) < 200 < len(secret)


def test_no_vectors_have_no_sum(adder) -> None:
    with pytest.raises(ProtocolError, match="every hospital dropped out"):
        adder.add({}, words=WORDS)


def test_a_vector_of_another_length_is_refused_by_name(adder, vector) -> None:
    with pytest.raises(ProtocolError, match=r"of clinic is not 7 words under this session's key"):
        adder.check(vector, words=7, sender="clinic")


def test_a_vector_under_another_key_is_refused_by_name(adder, vector) -> None:
    stranger = KeyHolder(*generate()).encrypt(np.ones(WORDS, dtype=np.uint32))
    with pytest.raises(ProtocolError, match=r"of clinic is not .* under this session's key"):
        adder.add({"ward": vector, "clinic": stranger}, words=WORDS)


@pytest.mark.parametrize(
    "change", [lambda v: v[:-1], lambda v: v[:60], lambda v: v[:40], lambda v: v[:20], lambda v: b""]
)
def test_a_vector_that_is_cut_off_is_refused_by_name(adder, vector, change) -> None:
    with pytest.raises(ProtocolError, match=r"of clinic (is cut off|is not)"):
        adder.check(change(vector), words=WORDS, sender="clinic")


def test_a_vector_with_bytes_to_spare_is_refused(adder, vector) -> None:
    with pytest.raises(ProtocolError, match="of clinic has bytes to spare"):
        adder.check(vector + b"x", words=WORDS, sender="clinic")


def test_garbage_behind_a_good_header_is_refused(adder, vector) -> None:
    garbage = np.random.default_rng(4).bytes(len(vector) - HEADER - 16)
    with pytest.raises(ProtocolError, match=r"of clinic"):
        adder.check(vector[: HEADER + 16] + garbage, words=WORDS, sender="clinic")


def test_flipped_bits_are_refused_or_are_a_ciphertext_that_can_be_added(adder, vector) -> None:
    generator = np.random.default_rng(5)
    refused = 0
    for position in (*range(HEADER, HEADER + 16), *generator.integers(HEADER + 16, len(vector), 40).tolist()):
        changed = bytearray(vector)
        changed[position] ^= 1 << int(generator.integers(8))
        try:
            adder.add({"ward": vector, "clinic": bytes(changed)}, words=WORDS)
        except ProtocolError as error:
            refused += 1
            assert "clinic" in str(error) and str(error).endswith(".")
    assert refused > 8


def test_a_coordinator_that_passes_off_one_update_as_the_sum_is_shown_it(holder, vector) -> None:
    # what masking forbids and this scheme does not: see the module's docstring and docs/threat-model.md
    np.testing.assert_array_equal(holder.decrypt(vector, words=WORDS), np.arange(WORDS))


def test_a_sum_under_another_key_does_not_become_numbers(adder, holder, vector) -> None:
    stranger = KeyHolder(*generate()).encrypt(np.ones(WORDS, dtype=np.uint32))
    relabelled = vector[:HEADER] + stranger[HEADER:]
    with pytest.raises(ProtocolError, match="does not hold whole numbers"):
        holder.decrypt(adder.add({"a": vector, "b": relabelled}, words=WORDS), words=WORDS)


def test_a_sum_beyond_a_thousand_sites_is_an_error_and_not_a_wrong_number(adder, holder) -> None:
    total = holder.encrypt(np.full(3, LARGEST, dtype=np.uint32))
    for _ in range(11):
        total = adder.add({"a": total, "b": total}, words=3)
    with pytest.raises(ProtocolError, match="does not hold whole numbers"):
        holder.decrypt(total, words=3)


def test_a_secret_key_that_is_not_the_announced_one_is_refused(keys) -> None:
    _, public = keys
    for secret in (generate()[0], keys[0][:-1], b""):
        with pytest.raises(ProtocolError, match="not the one announced"):
            KeyHolder(secret, public)


@pytest.mark.parametrize("secret", [b"", b"x" * 100, b"\x5e\xa1\x10\x04\x01\x02" + bytes(10)])
def test_a_secret_key_that_is_garbage_is_refused_even_if_its_maker_announced_it(secret) -> None:
    with pytest.raises(ProtocolError, match="The group's secret key cannot be used"):
        KeyHolder(secret, msgpack.packb({**_PUBLIC, "key": _fingerprint(secret)}))


def test_a_key_of_other_parameters_is_refused(keys) -> None:
    fields = msgpack.unpackb(keys[1])
    for change in ({"degree": 16384}, {"modulus_bits": [60, 40]}, {"scale": 2.0**20}, {"scheme": "bfv"}, {"key": b"x"}):
        with pytest.raises(ProtocolError, match="made for other encryption parameters"):
            Adder(msgpack.packb(fields | change))


@pytest.mark.parametrize("public", [b"", b"\xc1", b"\x01", b"garbage", b"\x80", b"\xdf\xff\xff\xff\xff"])
def test_a_public_key_that_is_garbage_is_refused(public) -> None:
    with pytest.raises(ProtocolError, match="public key cannot be read"):
        Adder(public)
