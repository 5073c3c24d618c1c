"""Sums under CKKS (Cheon et al. 2017), for consortia that require homomorphic encryption; `masking` is the default.

The sites encrypt under one secret key, the coordinator adds without it, and a site decrypts the sum. One site makes
the key pair for a session and hands the secret to the others through the sealed channels between sites.

What this does not give. Every site holds the same key, so a coordinator and one colluding site open every update.
A ciphertext does not say how many updates are in it: a coordinator that passes off one update as the sum is shown it
by whoever decrypts. Masking withstands both. A site that drops out, on the other hand, is simply not in the sum:
nothing has to be recovered, as long as one holder of the key is left.

Two words ride in each complex slot, as signed integers, so the sum is that of masking, bit for bit: CKKS is
approximate, but over a thousand sites its error stays below `LARGEST_ERROR` and rounding removes it. Rounded sums
also carry none of the noise from which Li & Micciancio (2021) compute the secret key.
"""

import contextlib
import functools
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
import tenseal.sealapi as seal
from numpy.typing import NDArray

from primia.errors import PrimiaError, ProtocolError
from primia.seal import memory_file, saved
from primia.secagg.masks import Words

DEGREE = 8192  # N
MODULUS_BITS = (60, 40, 40)  # 140 bits; 128-bit security allows 218 at this N
SCALE = 2.0**40
WORDS_PER_CIPHERTEXT = DEGREE  # N/2 complex slots
LARGEST_SUM = 2**41  # 1024 sites of words as large as they can be
LARGEST_ERROR = 1 / 16  # of a decrypted integer; from one half on, rounding would fail

_PUBLIC = {"scheme": "ckks", "degree": DEGREE, "modulus_bits": list(MODULUS_BITS), "scale": SCALE}
_FINGERPRINT_BYTES = 32
_COUNT_BYTES = 8
_HEADER_BYTES = 16  # of every SEAL object; bytes 8 to 15 hold its total size


def generate() -> tuple[bytes, bytes]:
    """A fresh secret key for the sites, and what the coordinator may know: the parameters and a fingerprint.

    The public bytes hold no encryption key: the sites encrypt under the secret key, in half the space.
    """
    secret = saved(seal.KeyGenerator(_scheme().context).secret_key())
    return secret, msgpack.packb({**_PUBLIC, "key": _fingerprint(secret)})


class Adder:
    """The coordinator's side: adds ciphertexts that it cannot read."""

    def __init__(self, public: bytes) -> None:
        """Raises `ProtocolError` if the key was made for other parameters, or the bytes are not a public key."""
        self._key_id = _parse_public(public)

    def check(self, vector: bytes, *, words: int, sender: str) -> None:
        """Read one site's ciphertexts through, so that a bad sender is known before anything is added.

        Raises:
            ProtocolError: not `words` encrypted words under this session's key; names the sender.
        """
        for part in _split(vector, key_id=self._key_id, words=words, sender=sender):
            _load_ciphertext(part, sender=sender)

    def add(self, vectors: Mapping[str, bytes], *, words: int) -> bytes:
        """The encrypted sum of the sites' vectors of `words` words each, in the same form as one of them.

        Raises:
            ProtocolError: no vectors, or one that `check` refuses.
        """
        if not vectors:
            raise ProtocolError("There are no encrypted vectors to add; every hospital dropped out.")
        senders = list(vectors)
        columns = zip(
            *(_split(vectors[sender], key_id=self._key_id, words=words, sender=sender) for sender in senders),
            strict=True,
        )
        total = bytearray(_frame(self._key_id, words))
        for column in columns:
            ciphertexts = [_load_ciphertext(part, sender=sender) for sender, part in zip(senders, column, strict=True)]
            with _in_one_sentence("The sum"):  # SEAL refuses a sum that would not be encrypted
                for other in ciphertexts[1:]:
                    _scheme().evaluator.add_inplace(ciphertexts[0], other)
                total += saved(ciphertexts[0])
        return bytes(total)


class KeyHolder:
    """A site's side: encrypts its words and reads the sum."""

    def __init__(self, secret: bytes, public: bytes) -> None:
        """Raises `ProtocolError` if the secret is damaged, of other parameters, or not that of the public bytes."""
        self._key_id = _parse_public(public)
        if not hmac.compare_digest(_fingerprint(secret), self._key_id):
            raise ProtocolError("The group's secret key is not the one announced; its maker must send it again.")
        self._secret = _loaded(seal.SecretKey(), secret, "The group's secret key")
        self._encryptor = seal.Encryptor(_scheme().context, self._secret)
        self._decryptor = seal.Decryptor(_scheme().context, self._secret)

    def encrypt(self, words: Words) -> bytes:
        """(n,) words as ceil(n / 8192) ciphertexts, each with its second half compressed to a seed; at least one."""
        assert words.dtype == np.uint32 and words.ndim == 1 and len(words) > 0
        vector = bytearray(_frame(self._key_id, len(words)))
        for start in range(0, len(words), WORDS_PER_CIPHERTEXT):
            values = np.zeros(WORDS_PER_CIPHERTEXT)
            part = words[start : start + WORDS_PER_CIPHERTEXT].view(np.int32)
            values[: len(part)] = part
            plain = seal.Plaintext()
            _scheme().encoder.encode(values.view(np.complex128).tolist(), SCALE, plain)
            vector += saved(self._encryptor.encrypt_symmetric(plain))
        return bytes(vector)

    def decrypt(self, total: bytes, *, words: int) -> Words:
        """The (words,) sum modulo 2^32, exact.

        Raises:
            ProtocolError: not such a sum under this key, or a value that lies between the integers.
        """
        sums = np.empty(words, dtype=np.uint32)
        for index, part in enumerate(_split(total, key_id=self._key_id, words=words, sender="the coordinator")):
            values = self._decrypted(_load_ciphertext(part, sender="the coordinator"))
            integers = np.rint(values)
            # garbage (another key, a tampered ciphertext) is spread over the whole modulus, far above any sum
            if not (np.abs(integers).max() <= LARGEST_SUM and np.abs(values - integers).max() <= LARGEST_ERROR):
                raise ProtocolError("The encrypted sum does not hold whole numbers; start a new attempt.")
            room = sums[index * WORDS_PER_CIPHERTEXT :][:WORDS_PER_CIPHERTEXT]
            room[:] = integers.astype(np.int64).astype(np.uint32)[: len(room)]
        return sums

    def _decrypted(self, ciphertext: Any) -> NDArray[np.float64]:
        plain = seal.Plaintext()
        with _in_one_sentence("The encrypted sum"):
            self._decryptor.decrypt(ciphertext, plain)
            return np.asarray(_scheme().encoder.decode_complex(plain), dtype=np.complex128).view(np.float64)


@dataclass(frozen=True)
class _Scheme:
    """SEAL's objects for our one set of parameters."""

    context: Any
    encoder: Any
    evaluator: Any


@functools.cache
def _scheme() -> _Scheme:
    parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(DEGREE)
    parameters.set_coeff_modulus(seal.CoeffModulus.Create(DEGREE, list(MODULUS_BITS)))
    context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set()
    return _Scheme(context, seal.CKKSEncoder(context), seal.Evaluator(context))


def _fingerprint(secret: bytes) -> bytes:
    return hashlib.sha256(b"primia-secagg ckks key\0" + secret).digest()


def _parse_public(public: bytes) -> bytes:
    """The fingerprint of the group's secret key, after checking that it was made for our parameters."""
    try:
        fields = msgpack.unpackb(public, max_bin_len=_FINGERPRINT_BYTES, max_map_len=8, max_array_len=8, max_ext_len=0)
        key_id = fields.pop("key")
    except Exception:  # msgpack raises many kinds, all of them about the bytes
        raise ProtocolError("The group's public key cannot be read; its maker must send it again.") from None
    if fields != _PUBLIC or not isinstance(key_id, bytes) or len(key_id) != _FINGERPRINT_BYTES:
        raise ProtocolError(
            "The group's key was made for other encryption parameters; all hospitals need the same version of primia."
        )
    return key_id


def _frame(key_id: bytes, words: int) -> bytes:
    """What stands before the ciphertexts, which follow end to end: SEAL writes each one's size into it."""
    return key_id + words.to_bytes(_COUNT_BYTES, "little")


def _split(vector: bytes, *, key_id: bytes, words: int, sender: str) -> Iterator[memoryview]:
    """The ciphertexts of a vector, one by one."""
    if vector[: _FINGERPRINT_BYTES + _COUNT_BYTES] != _frame(key_id, words):
        raise ProtocolError(
            f"The encrypted vector of {sender} is not {words} words under this session's key; start a new attempt."
        )
    view, start = memoryview(vector), _FINGERPRINT_BYTES + _COUNT_BYTES
    for _ in range(0, words, WORDS_PER_CIPHERTEXT):
        size = int.from_bytes(view[start + 8 : start + _HEADER_BYTES], "little")
        if size < _HEADER_BYTES or start + size > len(view):
            raise ProtocolError(f"The encrypted vector of {sender} is cut off; it must be sent again.")
        yield view[start : start + size]
        start += size
    if start != len(view):
        raise ProtocolError(f"The encrypted vector of {sender} has bytes to spare; it must be sent again.")


def _load_ciphertext(content: memoryview, *, sender: str) -> Any:
    what = f"The encrypted vector of {sender}"
    ciphertext = _loaded(seal.Ciphertext(), content, what)
    with _in_one_sentence(what):
        fits = (
            ciphertext.parms_id() == _scheme().context.first_parms_id()
            and ciphertext.size() == 2
            and ciphertext.scale == SCALE
            and ciphertext.is_ntt_form()
            and not ciphertext.is_transparent()
        )
    if not fits:
        raise ProtocolError(f"{what} is not of the level, size and scale agreed on; it must be sent again.")
    return ciphertext


def _loaded(target: Any, content: bytes | memoryview, what: str) -> Any:
    with _in_one_sentence(what), memory_file(content) as path:
        target.load(_scheme().context, path)
        valid = seal.is_valid_for(target, _scheme().context)
    if not valid:
        raise ProtocolError(f"{what} does not belong to these encryption parameters; it must be sent again.")
    return target


@contextlib.contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    try:
        yield
    except PrimiaError:
        raise
    except (ValueError, RuntimeError, MemoryError, OverflowError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ProtocolError(f"{what} cannot be used ({reason}); it must be made and sent again.") from None
