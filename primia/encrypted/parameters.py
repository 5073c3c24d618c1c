"""The public half of the encrypted service: encryption parameters and what a client must know of the model."""

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from primia.errors import EncryptionError

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

DEGREE = 8192
SLOTS = DEGREE // 2
MODULUS_BITS = 218  # largest total at 128-bit security for DEGREE (HomomorphicEncryption.org standard, 2018)
HEADROOM_BITS = 10  # the last modulus holds answers up to 2^(HEADROOM_BITS - 1)
SPECIAL_BITS = 12  # key-switching modulus above the scale; at least as large as every other modulus
SMALLEST_SCALE_BITS = 26  # below, rounding noise reaches the answer


class _Public(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Parameters(_Public):
    """CKKS parameters (Cheon et al. 2017): sizes of the moduli in bits, scale, and the rotations a plan needs.

    A rotation by `step` slots is the Galois element 3^step mod 2N; keys exist for these elements only.
    """

    modulus_bits: tuple[int, ...] = Field(min_length=3, max_length=16)
    scale_bits: int = Field(ge=SMALLEST_SCALE_BITS, le=50)
    galois_elements: tuple[int, ...] = Field(min_length=1, max_length=512)

    def digest(self) -> str:
        """SHA-256 over the parameters: keys made for one digest fit no other."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def levels(self) -> int:
        """Multiplications in a row that the parameters allow."""
        return len(self.modulus_bits) - 2

    @property
    def most_ciphertext_bytes(self) -> int:
        """Size of an uncompressed fresh ciphertext of two polynomials, with room for headers."""
        return 2 * (len(self.modulus_bits) - 1) * DEGREE * 8 + 4096

    @property
    def most_key_bytes(self) -> int:
        """Size of uncompressed evaluation keys: a seeded half for each digit of each key, and a public key."""
        primes = len(self.modulus_bits)
        one_key = (primes - 1) * primes * DEGREE * 8
        return (len(self.galois_elements) + 1) * (one_key + 8192) + 2 * primes * DEGREE * 8 + 65536


def parameters_for(*, levels: int, rotations: tuple[int, ...]) -> Parameters | None:
    """The largest scale at which `levels` multiplications fit N = 8192; None if none does.

    `rotations` are slot steps, positive or negative.
    """
    scale = (MODULUS_BITS - HEADROOM_BITS - SPECIAL_BITS) // (levels + 2)
    if scale < SMALLEST_SCALE_BITS:
        return None
    scale = min(scale, 45)
    elements = tuple(sorted({pow(3, step % SLOTS, 2 * DEGREE) for step in rotations}))
    bits = (scale + HEADROOM_BITS, *[scale] * levels, scale + SPECIAL_BITS)
    return Parameters(modulus_bits=bits, scale_bits=scale, galois_elements=elements)


class Specification(_Public):
    """What GET /model answers: enough to encrypt an image and to read the answer, nothing of the weights.

    pipeline_pixels: side of the image that preprocessing gives; network_pixels: side after shrinking by area;
    mean, std: standardise the shrunken image; period: the flattened image is padded to it and repeated over all slots.
    """

    parameters: Parameters
    classes: tuple[str, ...] = Field(min_length=2, max_length=SLOTS)
    pipeline_pixels: int = Field(ge=1, le=4096)
    network_pixels: int = Field(ge=1, le=64)
    mean: float = Field(allow_inf_nan=False)
    std: float = Field(gt=0.0, allow_inf_nan=False)
    period: int = Field(ge=1, le=SLOTS)
    model_digest: Digest
    teacher_digest: Digest


def parse_specification(content: bytes, *, where: str) -> Specification:
    """Read a specification from JSON.

    Raises:
        EncryptionError: names what is wrong and where it came from.
    """
    try:
        return Specification.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise EncryptionError(
            f"{where} gave no valid model specification ({key}: {first['msg']}); "
            "ask who runs it whether it is a primia diagnosis server of this version."
        ) from error
