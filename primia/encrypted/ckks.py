"""CKKS through SEAL's own interface, with every check that SEAL leaves to its caller.

Only bytes cross this file's border: they are read into objects of a context built from our own parameters, never into
a context that came with them. SEAL accepts more than it should (a ciphertext at another level, relinearisation keys as
Galois keys, bytes after the end, a bomb), hence `envelope` and the checks of `_loaded`.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgpack
import numpy as np
import tenseal.sealapi as seal

from primia.encrypted import envelope
from primia.encrypted.packing import Floats
from primia.encrypted.parameters import Parameters
from primia.errors import EncryptionError, PrimiaError
from primia.seal import memory_file, saved

_PARTS = ("public", "relinearisation", "galois")
_ROOM = 128  # a secret key's bytes besides its polynomial
_ALIKE = 0.05  # a hundred times the rounding noise; another key gives values of any size
_SENT_TOO_MUCH = (
    "The evaluation keys contain a secret key, which must never leave its owner; make new keys with keygen, and "
    "trust the old secret key no more."
)


@dataclass(frozen=True)
class EvaluationKeys:
    """What the server computes with; SEAL objects. They neither decrypt nor contain the secret key."""

    public: Any
    relinearisation: Any
    galois: Any


class Scheme:
    """One set of parameters, ready to make keys, encrypt, decrypt and read what others sent."""

    def __init__(self, parameters: Parameters) -> None:
        with in_one_sentence("These encryption parameters"):
            seal_parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
            seal_parameters.set_poly_modulus_degree(parameters.degree)
            seal_parameters.set_coeff_modulus(
                seal.CoeffModulus.Create(parameters.degree, list(parameters.modulus_bits))
            )
            # TC128: SEAL refuses moduli too large for 128-bit security, whoever chose them
            self.context = seal.SEALContext(seal_parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise EncryptionError(
                f"The encryption parameters are refused ({self.context.parameters_error_message()}); "
                "use a server whose parameters give 128-bit security."
            )
        self.parameters = parameters
        self._primes = len(parameters.modulus_bits)
        self.scale = 2.0**parameters.scale_bits
        self.encoder = seal.CKKSEncoder(self.context)
        self.evaluator = seal.Evaluator(self.context)

    def generate_keys(self) -> tuple[bytes, bytes]:
        """A fresh secret key and the evaluation keys that belong to it, apart from each other.

        Evaluation keys are seed-compressed (half the size) and cover exactly the parameters' Galois elements.
        """
        generator = seal.KeyGenerator(self.context)
        public = seal.PublicKey()
        generator.create_public_key(public)
        parts = {
            "public": saved(public),
            "relinearisation": saved(generator.create_relin_keys()),
            "galois": saved(generator.create_galois_keys(list(self.parameters.galois_elements))),
        }
        return saved(generator.secret_key()), cast(bytes, msgpack.packb(parts))

    def load_secret(self, content: bytes) -> Any:
        """Read a secret key made for these parameters."""
        words = self._primes * self.parameters.degree
        members = envelope.unpacked(content, 8 * words + _ROOM, "The secret key")
        return self._read(seal.SecretKey(), members, "The secret key")

    def load_keys(self, content: bytes) -> EvaluationKeys:
        """Read evaluation keys and check that they are those that the parameters ask for, no more and no fewer.

        Raises:
            EncryptionError: also for keys with a secret key among them, and for a public key that would not blur.
        """
        degree, primes = self.parameters.degree, self._primes
        if envelope.holds_secret(content, degree, primes):
            raise EncryptionError(_SENT_TOO_MUCH)
        try:
            parts = msgpack.unpackb(content, max_map_len=2 * len(_PARTS), max_bin_len=self.parameters.most_key_bytes)
        except Exception as error:  # msgpack raises many kinds, all of them about the bytes
            raise EncryptionError("The evaluation keys cannot be read; make them again with keygen.") from error
        if isinstance(parts, dict) and any(
            isinstance(part, bytes) and envelope.holds_secret(part, degree, primes) for part in parts.values()
        ):
            raise EncryptionError(_SENT_TOO_MUCH)
        if not (
            isinstance(parts, dict)
            and set(parts) == set(_PARTS)
            and all(isinstance(part, bytes) for part in parts.values())
        ):
            raise EncryptionError(
                f"The evaluation keys must hold {', '.join(_PARTS)} and nothing else; make them again with keygen."
            )
        elements = self.parameters.galois_elements
        most = {
            "public": envelope.ciphertext_bytes(degree, primes),
            "relinearisation": envelope.keys_bytes(degree, primes, 1),
            "galois": envelope.keys_bytes(degree, primes, len(elements)),
        }
        what = "The evaluation keys"
        members = {
            name: envelope.unpacked(parts.pop(name), most[name], f"The {name} part of the evaluation keys")
            for name in _PARTS
        }
        fits = (
            envelope.is_ciphertext(members["public"], degree, primes)
            and envelope.are_keys(members["relinearisation"], degree, primes, [0])
            and envelope.are_keys(members["galois"], degree, primes, [(element - 1) // 2 for element in elements])
        )
        if not fits:
            raise EncryptionError(
                "The evaluation keys are not those this model needs; make new ones with keygen against this server."
            )
        if not envelope.has_random_halves(members["public"], degree, primes):
            raise EncryptionError(
                "The evaluation keys hold a public key that encrypts nothing; make new ones with keygen."
            )
        return EvaluationKeys(
            public=self._read(seal.PublicKey(), members.pop("public"), what),
            relinearisation=self._read(seal.RelinKeys(), members.pop("relinearisation"), what),
            galois=self._read(seal.GaloisKeys(), members.pop("galois"), what),
        )

    def owns(self, secret: Any, keys: EvaluationKeys) -> bool:
        """Whether evaluation keys belong to a secret key: what their public key encrypts, and their relinearisation
        key and one rotation work on, is decrypted with it."""
        values = np.frombuffer(os.urandom(self.parameters.slots), dtype=np.int8) / 128.0
        value, plain = seal.Ciphertext(), seal.Plaintext()
        element = self.parameters.galois_elements[0]
        with in_one_sentence("These keys"):
            message = self.encoded(values, self.context.first_parms_id(), self.scale)
            seal.Encryptor(self.context, keys.public).encrypt(message, value)
            self.evaluator.square_inplace(value)
            self.evaluator.relinearize_inplace(value, keys.relinearisation)
            self.evaluator.rescale_to_next_inplace(value)
            self.evaluator.apply_galois_inplace(value, element, keys.galois)
            seal.Decryptor(self.context, secret).decrypt(value, plain)
            found = np.sort(np.asarray(self.encoder.decode_double(plain)))  # a Galois element permutes the slots
        return bool(np.abs(found - np.sort(np.square(values))).max() < _ALIKE)

    def encrypt(self, slots: Floats, secret: Any) -> bytes:
        """Encrypt (slots,) real values under the secret key, seed-compressed."""
        with in_one_sentence("The image"):
            plain = self.encoded(slots, self.context.first_parms_id(), self.scale)
            return saved(seal.Encryptor(self.context, secret).encrypt_symmetric(plain))

    def decrypt(self, content: bytes, secret: Any) -> Floats:
        """Read an answer of the server and decrypt it: (slots,) real values.

        The values must not go back to the server: their rounding noise depends on the secret key (Li & Micciancio
        2021).
        """
        ciphertext = self.load_answer(content)
        plain = seal.Plaintext()
        with in_one_sentence("The answer"):
            seal.Decryptor(self.context, secret).decrypt(ciphertext, plain)
            return np.asarray(self.encoder.decode_double(plain), dtype=np.float64)

    def load_fresh(self, content: bytes) -> Any:
        """Read an encrypted image: at the first level, at the parameters' scale."""
        return self._loaded(content, self.context.first_parms_id(), "The encrypted image")

    def load_answer(self, content: bytes) -> Any:
        """Read an encrypted answer: at the last level."""
        return self._loaded(content, self.context.last_parms_id(), "The encrypted answer")

    def save(self, ciphertext: Any) -> bytes:
        """A ciphertext's bytes."""
        return saved(ciphertext)

    def encoded(self, values: Floats, parms_id: Any, scale: float) -> Any:
        """(slots,) real or complex values as a SEAL plaintext at a level and scale."""
        assert values.shape == (self.parameters.slots,)
        plain = seal.Plaintext()
        self.encoder.encode(values.tolist(), parms_id, scale, plain)
        return plain

    def last_modulus(self, parms_id: Any) -> int:
        """The prime that rescaling at this level divides by."""
        return cast(int, self.context.get_context_data(parms_id).parms().coeff_modulus()[-1].value())

    def _loaded(self, content: bytes, parms_id: Any, what: str) -> Any:
        primes = len(self.context.get_context_data(parms_id).parms().coeff_modulus())
        degree = self.parameters.degree
        # A ciphertext of more primes, as other parameters have, is read as far as needed to say so.
        members = envelope.unpacked(content, 2 * envelope.ciphertext_bytes(degree, self._primes), what)
        if not envelope.is_ciphertext(members, degree, primes):
            raise EncryptionError(f"{what} is not of the level, size and scale agreed on; encrypt the image again.")
        ciphertext = self._read(seal.Ciphertext(), members, what)
        with in_one_sentence(what):
            fits = (
                ciphertext.parms_id() == parms_id
                and ciphertext.size() == 2
                and abs(ciphertext.scale / self.scale - 1.0) < 1e-9
                and ciphertext.is_ntt_form()
                and not ciphertext.is_transparent()
            )
        if not fits:
            raise EncryptionError(f"{what} is not of the level, size and scale agreed on; encrypt the image again.")
        return ciphertext

    def _read(self, target: Any, members: bytes, what: str) -> Any:
        with in_one_sentence(what), memory_file(envelope.repacked(members)) as path:
            target.load(self.context, path)
            valid = seal.is_valid_for(target, self.context)
        if not valid:
            raise EncryptionError(f"{what} does not belong to these parameters; make it again for this server.")
        return target


@contextlib.contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Turn whatever SEAL raises into an `EncryptionError` about `what`."""
    try:
        yield
    except PrimiaError:
        raise
    except (ValueError, RuntimeError, MemoryError, OverflowError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EncryptionError(
            f"{what} cannot be used ({reason}); make it again for this server's parameters."
        ) from None
