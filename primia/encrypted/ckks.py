"""CKKS through SEAL's own interface, with every check that SEAL leaves to its caller.

Only bytes cross this file's border: they are read into objects of a context built from our own parameters, never into
a context that came with them. SEAL accepts more than it should (a ciphertext at another level, relinearisation keys as
Galois keys, bytes after the end), hence `_loaded` and the checks behind it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import msgpack
import numpy as np
import tenseal.sealapi as seal

from primia.encrypted.packing import Floats
from primia.encrypted.parameters import DEGREE, SLOTS, Parameters
from primia.errors import EncryptionError, PrimiaError
from primia.seal import memory_file, saved

_HEADER = 16  # SEAL's header: magic, version, compression, and the total size in bytes 8 to 15
_PARTS = ("public", "relinearisation", "galois")


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
            seal_parameters.set_poly_modulus_degree(DEGREE)
            seal_parameters.set_coeff_modulus(seal.CoeffModulus.Create(DEGREE, list(parameters.modulus_bits)))
            # TC128: SEAL refuses moduli too large for 128-bit security, whoever chose them
            self.context = seal.SEALContext(seal_parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        if not self.context.parameters_set():
            raise EncryptionError(
                f"The encryption parameters are refused ({self.context.parameters_error_message()}); "
                "use a server whose parameters give 128-bit security."
            )
        self.parameters = parameters
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
        return self._loaded(seal.SecretKey(), content, "The secret key")

    def load_keys(self, content: bytes) -> EvaluationKeys:
        """Read evaluation keys and check that they are those that the parameters ask for, no more and no fewer."""
        try:
            parts = msgpack.unpackb(content, max_map_len=2 * len(_PARTS), max_bin_len=self.parameters.most_key_bytes)
        except Exception as error:  # msgpack raises many kinds, all of them about the bytes
            raise EncryptionError("The evaluation keys cannot be read; make them again with keygen.") from error
        if not (
            isinstance(parts, dict)
            and set(parts) == set(_PARTS)
            and all(isinstance(part, bytes) for part in parts.values())
        ):
            raise EncryptionError(
                f"The evaluation keys must hold {', '.join(_PARTS)} and nothing else; make them again with keygen."
            )
        what = "The evaluation keys"
        keys = EvaluationKeys(
            public=self._loaded(seal.PublicKey(), parts["public"], what),
            relinearisation=self._loaded(seal.RelinKeys(), parts["relinearisation"], what),
            galois=self._loaded(seal.GaloisKeys(), parts["galois"], what),
        )
        elements = self.parameters.galois_elements
        with in_one_sentence(what):
            fits = (
                keys.relinearisation.size() == 1
                and keys.relinearisation.has_key(2)
                and keys.galois.size() == len(elements)
                and all(keys.galois.has_key(element) for element in elements)
            )
        if not fits:
            raise EncryptionError(
                "The evaluation keys are not those this model needs; make new ones with keygen against this server."
            )
        return keys

    def encrypt(self, slots: Floats, secret: Any) -> bytes:
        """Encrypt (SLOTS,) real values under the secret key, seed-compressed."""
        with in_one_sentence("The image"):
            plain = self.encoded(slots, self.context.first_parms_id(), self.scale)
            return saved(seal.Encryptor(self.context, secret).encrypt_symmetric(plain))

    def decrypt(self, content: bytes, secret: Any) -> Floats:
        """Read an answer of the server and decrypt it: (SLOTS,) real values.

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
        ciphertext = self._loaded(seal.Ciphertext(), content, "The encrypted image")
        self._check(ciphertext, self.context.first_parms_id(), "The encrypted image")
        return ciphertext

    def load_answer(self, content: bytes) -> Any:
        """Read an encrypted answer: at the last level."""
        ciphertext = self._loaded(seal.Ciphertext(), content, "The encrypted answer")
        self._check(ciphertext, self.context.last_parms_id(), "The encrypted answer")
        return ciphertext

    def save(self, ciphertext: Any) -> bytes:
        """A ciphertext's bytes."""
        return saved(ciphertext)

    def encoded(self, values: Floats, parms_id: Any, scale: float) -> Any:
        """(SLOTS,) real or complex values as a SEAL plaintext at a level and scale."""
        assert values.shape == (SLOTS,)
        plain = seal.Plaintext()
        self.encoder.encode(values.tolist(), parms_id, scale, plain)
        return plain

    def last_modulus(self, parms_id: Any) -> int:
        """The prime that rescaling at this level divides by."""
        return cast(int, self.context.get_context_data(parms_id).parms().coeff_modulus()[-1].value())

    def _check(self, ciphertext: Any, parms_id: Any, what: str) -> None:
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

    def _loaded(self, target: Any, content: bytes, what: str) -> Any:
        # SEAL reads as far as the header says and ignores the rest; nothing may hide behind it
        if len(content) < _HEADER or int.from_bytes(content[8:_HEADER], "little") != len(content):
            raise EncryptionError(f"{what} is empty, cut off or has bytes to spare; send it again.")
        with in_one_sentence(what), memory_file(content) as path:
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
