import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from primia.secagg.masks import add_keystreams, pair_mask_key, self_mask_key
from primia.secagg.session import Session

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")


def keystream(key, words):
    vector = np.zeros(words, dtype=np.uint32)
    add_keystreams(vector, added=[key])
    return vector


def test_the_keystream_is_aes_256_in_counter_mode():
    # NIST AES-256 known answer: the zero block under the zero key (FIPS 197 / SP 800-38A style vectors).
    assert keystream(bytes(32), 4).astype("<u4").tobytes().hex() == "dc95c078a2408989ad48a21492842087"
    key = bytes(range(32))
    expected = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(4 * 700_001))
    assert keystream(key, 700_001).astype("<u4").tobytes() == expected  # longer than two blocks of 1 MiB


def test_the_derived_keys_are_known_answers():
    # Written down when protocol version 3 was fixed: a change here is a new protocol version.
    secret = bytes(range(32))
    assert pair_mask_key(secret, SESSION, first="north", second="river", request="aa").hex() == PAIR
    assert self_mask_key(secret, SESSION, name="north").hex() == SELF


PAIR = "ad25476261fd7cfdabc964b0e0939dbd919a30bf443ff8e3cc8fd7900e3336bd"
SELF = "03f9bada1da44a6ba68861808458fe984ac06b0b54fe933306b3022d48b5d6db"


def test_every_byte_of_the_key_changes_the_stream():
    # A generator that uses only 32 bits of its seed gives equal streams for keys that differ elsewhere.
    secret = os.urandom(32)
    streams = {keystream(secret, 64).tobytes()}
    for position in range(32):
        changed = bytearray(secret)
        changed[position] ^= 1
        streams.add(keystream(bytes(changed), 64).tobytes())
    assert len(streams) == 33


def test_every_byte_of_the_secret_changes_the_derived_key():
    secret = os.urandom(32)
    keys = {pair_mask_key(secret, SESSION, first="north", second="river", request="aa")}
    for position in range(32):
        changed = bytearray(secret)
        changed[position] ^= 1
        keys.add(pair_mask_key(bytes(changed), SESSION, first="north", second="river", request="aa"))
    assert len(keys) == 33
    assert all(len(key) == 32 for key in keys)


def test_a_key_of_32_bits_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        add_keystreams(np.zeros(4, dtype=np.uint32), added=[os.urandom(4)])


def test_many_streams_never_start_alike():
    # 20 000 streams: a 32-bit seed would repeat its first 64 bits with probability 4 % only, a 28-bit one with 52 %,
    # a 16-bit one surely; the byte-wise tests above are the sharp ones.
    starts = {keystream(os.urandom(32), 2).tobytes() for _ in range(20_000)}
    assert len(starts) == 20_000


def test_keys_differ_by_session_pair_request_and_kind():
    secret = os.urandom(32)
    sessions = [
        SESSION,
        SESSION.model_copy(update={"run": "run-0002"}),
        SESSION.model_copy(update={"round": 2}),
        SESSION.model_copy(update={"attempt": 2}),
        SESSION.model_copy(update={"purpose": "evaluate"}),
    ]
    names = [("north", "river"), ("north", "hill"), ("northr", "iver")]
    keys = [
        pair_mask_key(secret, s, first=a, second=b, request=request)
        for s in sessions
        for a, b in names
        for request in ("aa", "bb")
    ]
    keys += [self_mask_key(secret, s, name=a) for s in sessions for a, _ in names[1:]]
    assert len(set(keys)) == len(keys)


def test_both_ends_of_a_pair_derive_the_same_key():
    secret = os.urandom(32)
    assert pair_mask_key(secret, SESSION, first="a", second="b", request="aa") == pair_mask_key(
        secret, SESSION, first="b", second="a", request="aa"
    )


def test_a_masked_vector_is_uniform_whatever_it_hides():
    for hidden in (0, 1, 2**32 - 1):
        vector = np.full(1 << 18, hidden, dtype=np.uint32)
        add_keystreams(vector, added=[os.urandom(32)])
        for shift in (0, 8, 16, 24):
            counts = np.bincount((vector >> np.uint32(shift)) & np.uint32(255), minlength=256)
            assert chisquare(counts).pvalue > 1e-7
        neighbours = np.corrcoef(vector[:-1].astype(float), vector[1:].astype(float))[0, 1]
        assert abs(neighbours) < 6 / np.sqrt(len(vector))


def test_several_keystreams_at_once_are_the_sum_of_each():
    keys = [os.urandom(32) for _ in range(5)]
    vector = np.zeros(200_003, dtype=np.uint32)  # several blocks and a rest
    add_keystreams(vector, added=keys[:3], subtracted=keys[3:])
    streams = [keystream(key, len(vector)) for key in keys]
    np.testing.assert_array_equal(vector, streams[0] + streams[1] + streams[2] - streams[3] - streams[4])


@given(words=st.lists(st.integers(0, 2**32 - 1), min_size=0, max_size=50), key=st.binary(min_size=32, max_size=32))
@settings(max_examples=50, deadline=None)
def test_subtracting_a_keystream_undoes_adding_it(words, key):
    vector = np.array(words, dtype=np.uint32)
    add_keystreams(vector, added=[key])
    add_keystreams(vector, subtracted=[key])
    assert vector.tolist() == words
