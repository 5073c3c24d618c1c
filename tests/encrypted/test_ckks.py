import msgpack
import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal
from small_network import seeded

from primia.encrypted import envelope
from primia.encrypted.ckks import Scheme
from primia.encrypted.parameters import Parameters, parameters_for
from primia.errors import EncryptionError

SLOTS = 4096


def slots_of(value: float) -> np.ndarray:
    return np.full(SLOTS, value)


@pytest.fixture(scope="module")
def other() -> Scheme:
    parameters = parameters_for(levels=3, rotations=(1,))
    assert parameters is not None
    return Scheme(parameters)


def test_what_was_encrypted_is_decrypted(small) -> None:
    scheme = small.engine.scheme
    values = np.linspace(-2, 2, SLOTS)
    ciphertext = scheme.load_fresh(scheme.encrypt(values, small.secret))
    scheme.evaluator.mod_switch_to_inplace(ciphertext, scheme.context.last_parms_id())
    np.testing.assert_allclose(scheme.decrypt(scheme.save(ciphertext), small.secret), values, atol=1e-4)


@pytest.mark.parametrize(
    "change", [lambda b: b"", lambda b: b[:10], lambda b: b[:-1], lambda b: b + b"x", lambda b: b"x" * len(b)]
)
def test_bytes_that_are_empty_cut_off_or_too_many_are_refused(small, change) -> None:
    with pytest.raises(EncryptionError, match="The encrypted image is empty, cut off or has bytes to spare"):
        small.engine.scheme.load_fresh(change(small.fresh))


def test_flipped_bits_are_refused_or_still_a_ciphertext_of_the_agreed_form(small) -> None:
    scheme = small.engine.scheme
    generator = np.random.default_rng(1)
    refused = set()
    # Every byte of the header's magic number, size and version, then anywhere.
    for position in (*range(4), *generator.integers(0, len(small.fresh), size=60).tolist()):
        changed = bytearray(small.fresh)
        changed[position] ^= 1 << int(generator.integers(8))
        try:
            loaded = scheme.load_fresh(bytes(changed))
        except EncryptionError as error:
            refused.add(position)
            assert str(error).endswith(".")
        else:
            assert seal.is_valid_for(loaded, scheme.context)
            assert (loaded.size(), loaded.scale) == (2, scheme.scale)
    assert {0, 1, 2} <= refused


def test_a_ciphertext_under_other_parameters_is_refused(small, other) -> None:
    secret, _ = other.generate_keys()
    foreign = other.encrypt(slots_of(1.0), other.load_secret(secret))
    with pytest.raises(EncryptionError, match="not of the level, size and scale agreed on"):
        small.engine.scheme.load_fresh(foreign)
    # as many primes, but others
    bits = small.bundle.specification.parameters.modulus_bits
    similar = Scheme(
        small.bundle.specification.parameters.model_copy(update={"modulus_bits": (bits[0], 27, *bits[2:])})
    )
    secret, keys = similar.generate_keys()
    with pytest.raises(EncryptionError, match="The encrypted image cannot be used"):
        small.engine.scheme.load_fresh(similar.encrypt(slots_of(1.0), similar.load_secret(secret)))
    with pytest.raises(EncryptionError, match="The evaluation keys cannot be used"):
        small.engine.scheme.load_keys(keys)


def test_a_ciphertext_at_another_level_is_refused(small) -> None:
    scheme = small.engine.scheme
    lower = scheme.load_fresh(small.fresh)
    scheme.evaluator.mod_switch_to_next_inplace(lower)
    with pytest.raises(EncryptionError, match="level, size and scale agreed on"):
        scheme.load_fresh(scheme.save(lower))
    with pytest.raises(EncryptionError, match="level, size and scale agreed on"):
        scheme.load_answer(small.fresh)


def test_a_ciphertext_of_three_polynomials_or_another_scale_is_refused(small) -> None:
    scheme = small.engine.scheme
    value = scheme.load_fresh(small.fresh)
    value.scale = scheme.scale / 2
    with pytest.raises(EncryptionError, match="level, size and scale agreed on"):
        scheme.load_fresh(scheme.save(value))
    value.scale = scheme.scale
    squared = seal.Ciphertext()
    scheme.evaluator.square(value, squared)
    squared.scale = scheme.scale
    with pytest.raises(EncryptionError, match="level, size and scale agreed on"):
        scheme.load_fresh(scheme.save(squared))


def test_the_secret_key_is_taken_for_nothing_else(small) -> None:
    scheme = small.engine.scheme
    with pytest.raises(EncryptionError):
        scheme.load_fresh(small.secret_bytes)


def test_keys_with_a_secret_key_among_them_are_refused_and_said_so(small) -> None:
    scheme = small.engine.scheme
    parts = msgpack.unpackb(small.key_bytes)
    sent = [msgpack.packb(parts | {name: small.secret_bytes}) for name in (*parts, "secret")]
    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60])
    sent += [small.secret_bytes, context.serialize(save_secret_key=True)]
    sent += [msgpack.packb(parts | {"public": context.serialize(save_secret_key=True)})]
    for content in sent:
        with pytest.raises(EncryptionError, match="The evaluation keys contain a secret key, which must never leave"):
            scheme.load_keys(content)
    with pytest.raises(EncryptionError, match="cannot be read"):
        scheme.load_keys(context.serialize(save_secret_key=False))


def test_a_public_key_that_would_not_blur_the_answer_is_refused(small) -> None:
    scheme = small.engine.scheme
    parts = msgpack.unpackb(small.key_bytes)
    members = bytearray(envelope.unpacked(parts["public"], 1 << 24, "it"))
    words = 2 * 7 * 8192 * 8
    for start, end in ((words // 2, words), (0, words), (words - 8192 * 8, words)):
        zeroed = members[:]
        zeroed[len(members) - words + start : len(members) - words + end] = bytes(end - start)
        with pytest.raises(EncryptionError, match="a public key that encrypts nothing"):
            scheme.load_keys(msgpack.packb(parts | {"public": envelope.repacked(bytes(zeroed))}))


def test_a_public_key_whose_second_half_is_a_seed_is_refused(small) -> None:
    parts = msgpack.unpackb(small.key_bytes)
    with pytest.raises(EncryptionError, match="a public key that encrypts nothing"):
        small.engine.scheme.load_keys(msgpack.packb(parts | {"public": seeded(parts["public"])}))


def test_evaluation_keys_know_their_owner(small) -> None:
    scheme = small.engine.scheme
    assert scheme.owns(small.secret, small.keys)
    assert not scheme.owns(scheme.load_secret(scheme.generate_keys()[0]), small.keys)


def test_the_evaluation_keys_hold_no_secret_key_and_do_not_decrypt(small) -> None:
    scheme = small.engine.scheme
    parts = msgpack.unpackb(small.key_bytes)
    assert set(parts) == {"public", "relinearisation", "galois"}
    assert small.secret_bytes not in small.key_bytes
    assert all(small.secret_bytes[start : start + 64] not in small.key_bytes for start in range(64, 4096, 512))
    for part in parts.values():
        with pytest.raises(EncryptionError):
            scheme.load_secret(part)
    # the raw polynomial of the secret key against every polynomial of the public key, at full precision
    secret = seal.SecretKey()
    secret = scheme.load_secret(small.secret_bytes).data()
    public = small.keys.public.data()
    primes = public.coeff_modulus_size()
    own = [secret.data(index) for index in range(64)]
    for polynomial in range(2):
        begin = polynomial * primes * 8192
        assert own != [public.dyn_array().at(begin + index) for index in range(64)]


def test_another_secret_key_decrypts_to_noise(small) -> None:
    scheme = small.engine.scheme
    stranger = scheme.load_secret(scheme.generate_keys()[0])
    answer = small.engine.evaluate([small.fresh], small.keys)
    assert np.abs(scheme.decrypt(answer, stranger)).mean() > 1.0
    assert np.abs(scheme.decrypt(answer, small.secret)).max() < 20.0


@pytest.mark.parametrize("content", [b"", b"\xc1", msgpack.packb({"public": b""}), msgpack.packb([1, 2]), b"\x93" * 50])
def test_evaluation_keys_that_are_no_keys_are_refused(small, content) -> None:
    with pytest.raises(EncryptionError, match=r"The evaluation keys .* with keygen"):
        small.engine.scheme.load_keys(content)


def test_evaluation_keys_with_a_part_exchanged_missing_or_added_are_refused(small) -> None:
    scheme = small.engine.scheme
    parts = msgpack.unpackb(small.key_bytes)
    exchanged = parts | {"galois": parts["relinearisation"], "relinearisation": parts["galois"]}
    with pytest.raises(EncryptionError, match=r"unpacks to more than|not those this model needs"):
        scheme.load_keys(msgpack.packb(exchanged))
    with pytest.raises(EncryptionError, match="nothing else"):
        scheme.load_keys(msgpack.packb(parts | {"more": b"x"}))
    del parts["galois"]
    with pytest.raises(EncryptionError, match="nothing else"):
        scheme.load_keys(msgpack.packb(parts))


def test_sizes_stay_below_the_caps(small) -> None:
    parameters = small.engine.scheme.parameters
    assert len(small.key_bytes) <= parameters.most_key_bytes
    assert len(small.fresh) <= parameters.most_ciphertext_bytes


def test_parameters_below_128_bit_security_are_refused() -> None:
    weak = Parameters(modulus_bits=(60, 60, 60, 60), scale_bits=40, galois_elements=(3,), degree=8192)
    with pytest.raises(EncryptionError, match="128-bit security"):
        Scheme(weak)
