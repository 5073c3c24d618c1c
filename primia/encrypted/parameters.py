"""The public half of the encrypted service: encryption parameters and what a client must know of the model."""

import hashlib
from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from primia.errors import EncryptionError

# They are shown at a terminal, and each is a key of the diagnosis.
ClassName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,-][A-Za-z0-9 _.,-]{0,63}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

# Largest sum of the moduli's bits at 128-bit security, by degree (HomomorphicEncryption.org standard, 2018).
MODULUS_BITS = {8192: 218, 16384: 438}
HEADROOM_BITS = 10  # the last modulus holds answers up to 2^(HEADROOM_BITS - 1)
SPECIAL_BITS = 12  # key-switching modulus above the scale; at least as large as every other modulus
SMALLEST_SCALE_BITS = 26  # below, rounding noise reaches the answer
LARGEST_SCALE_BITS = 34  # above, keys and questions grow; the flooding noise is larger than the error anyway
MOST_GALOIS_KEYS = 512
MOST_SLOTS = max(MODULUS_BITS) // 2
MOST_CIPHERTEXTS = 256  # of a question
# Whether an image can be encrypted must not depend on the image: who asks and who gives up would tell of it.
SMALLEST_STD, LARGEST_STD = 1e-3, 10.0
VALUE_BITS = 10  # pixels in [0, 1], less a mean in [0, 1], over a std from 2^-10; scattered values are smaller
SCATTERED_CHANNELS, SCATTERING_STRIDE, SMALLEST_SCATTERED = 217, 8, 16


class _Public(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Parameters(_Public):
    """CKKS parameters (Cheon et al. 2017): degree N, sizes of the moduli in bits, scale, and what a plan rotates by.

    A rotation by `step` slots is the Galois element 3^step mod 2N, complex conjugation is 2N - 1; keys exist for these
    elements only.
    """

    degree: Literal[8192, 16384]
    modulus_bits: tuple[int, ...] = Field(min_length=3, max_length=18)
    scale_bits: int = Field(ge=SMALLEST_SCALE_BITS, le=50)
    galois_elements: tuple[int, ...] = Field(min_length=1, max_length=MOST_GALOIS_KEYS)

    def digest(self) -> str:
        """SHA-256 over the parameters: keys made for one digest fit no other."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def slots(self) -> int:
        """Values that one ciphertext holds."""
        return self.degree // 2

    @property
    def levels(self) -> int:
        """Multiplications in a row that the parameters allow."""
        return len(self.modulus_bits) - 2

    @property
    def most_ciphertext_bytes(self) -> int:
        """Size of an uncompressed fresh ciphertext of two polynomials, with room for headers."""
        return 2 * (len(self.modulus_bits) - 1) * self.degree * 8 + 4096

    @property
    def most_key_bytes(self) -> int:
        """Size of uncompressed evaluation keys: a seeded half for each digit of each key, and a public key."""
        primes = len(self.modulus_bits)
        one_key = (primes - 1) * primes * self.degree * 8
        headers = 8192 + 8 * self.degree  # SEAL writes a length for each element that a key could have
        return (len(self.galois_elements) + 1) * (one_key + 8192) + 2 * primes * self.degree * 8 + headers


def parameters_for(*, levels: int, rotations: Iterable[int], degree: Literal[8192, 16384] = 8192) -> Parameters | None:
    """The largest sensible scale at which `levels` multiplications fit a degree; None if none does.

    `rotations` are slot steps, positive or negative; keys are for these and for complex conjugation.
    """
    scale = (MODULUS_BITS[degree] - HEADROOM_BITS - SPECIAL_BITS) // (levels + 2)
    if scale < SMALLEST_SCALE_BITS:
        return None
    scale = min(scale, LARGEST_SCALE_BITS)
    elements = {pow(3, step % (degree // 2), 2 * degree) for step in rotations} | {2 * degree - 1}
    return Parameters(
        degree=degree,
        modulus_bits=(scale + HEADROOM_BITS, *[scale] * levels, scale + SPECIAL_BITS),
        scale_bits=scale,
        galois_elements=tuple(sorted(elements)),
    )


class Packing(_Public):
    """How the values a network takes are laid into slots: (channels, height, width) in row-major order.

    The image is cut into patches of `patch` x `patch` pixels. A plane holds the pixels at one offset in all patches
    of one channel, so that a convolution whose stride is its size moves whole planes only. Each plane takes `stride`
    slots, a power of two; with `stride` null the values follow one another through all ciphertexts.
    """

    channels: int = Field(ge=1, le=4096)
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    patch: int = Field(default=1, ge=1, le=64)
    stride: int | None = Field(default=None, ge=1, le=MOST_SLOTS)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.height % self.patch or self.width % self.patch:
            raise ValueError("patches do not divide the image")
        if self.stride is None:
            if self.patch != 1:
                raise ValueError("patches need a stride")
        elif self.stride & (self.stride - 1) or self.height * self.width > self.stride * self.patch**2:
            raise ValueError("the stride is no power of two that holds a plane")
        return self

    @property
    def values(self) -> int:
        """Number of values."""
        return self.channels * self.height * self.width

    def ciphertexts(self, slots: int) -> int:
        """Ciphertexts of so many slots that an image takes."""
        if self.stride is None:
            return -(-self.values // slots)
        return -(-self.channels * self.patch**2 // (slots // self.stride))

    def period(self, slots: int) -> int:
        """Slots after which the values repeat: those of all ciphertexts, or fewer if they fit one several times."""
        count = self.ciphertexts(slots)
        if count > 1:
            return count * slots
        used = self.values if self.stride is None else self.channels * self.patch**2 * self.stride
        return 1 << (used - 1).bit_length()


class Specification(_Public):
    """What GET /models/{name} tells: enough to encrypt an image and to read the answer, nothing of the weights.

    pipeline_pixels: side of the image that preprocessing gives. front: what the client computes in the clear, without
    learned weights: `shrink` (by area, to the size of the packing, then standardise) or `scattering` (standardise,
    then scatter). mean, std: of that standardisation, of pixels in [0, 1]. packing: how the front's values lie in the
    slots. The answer repeats the logits, padded to a power of two, over all slots.
    """

    parameters: Parameters
    classes: tuple[ClassName, ...] = Field(min_length=2, max_length=MOST_SLOTS)
    pipeline_pixels: int = Field(ge=1, le=4096)
    front: Literal["shrink", "scattering"]
    mean: float = Field(ge=0.0, le=1.0, allow_inf_nan=False)
    std: float = Field(ge=SMALLEST_STD, le=LARGEST_STD, allow_inf_nan=False)
    packing: Packing
    model_digest: Digest
    teacher_digest: Digest

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("a class is named twice")
        if max(self.packing.stride or 1, len(self.classes)) > self.parameters.slots:
            raise ValueError("a plane or the answer takes more slots than a ciphertext has")
        if not self._fits_front():
            raise ValueError("the packing's shape is none that the front makes of an image of these pixels")
        # Coefficients are no larger than the largest value; half of the two bits to spare is for primes below 2^bits.
        if self.parameters.scale_bits + VALUE_BITS + 2 > sum(self.parameters.modulus_bits[:-1]):
            raise ValueError("the first modulus does not hold every image at this scale")
        return self

    def _fits_front(self) -> bool:
        shape, pixels = (self.packing.channels, self.packing.height, self.packing.width), self.pipeline_pixels
        if self.front == "scattering":
            side, rest = divmod(pixels, SCATTERING_STRIDE)
            return pixels >= SMALLEST_SCATTERED and rest == 0 and shape == (SCATTERED_CHANNELS, side, side)
        return shape == (1, shape[1], shape[1]) and shape[1] <= pixels

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of a question."""
        return self.packing.ciphertexts(self.parameters.slots)

    @property
    def most_question_bytes(self) -> int:
        """Largest size of a question, with room for its frame."""
        return self.ciphertexts * self.parameters.most_ciphertext_bytes + 4096


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
