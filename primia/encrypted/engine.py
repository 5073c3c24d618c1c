"""The server's side of a diagnosis: the plan evaluated on a ciphertext it cannot read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from primia.encrypted.ckks import EvaluationKeys, Scheme, in_one_sentence
from primia.encrypted.packing import Floats, repeat
from primia.encrypted.parameters import SLOTS
from primia.encrypted.plan import Plan
from primia.errors import EncryptionError

# Standard deviation of the noise added to every logit. CKKS' own rounding noise, 1e-4 to 1e-3 here, depends on the
# weights and is blurred by it, not hidden: that would take noise many bits larger, hence a larger N. The flood slows
# the extraction of weights from answers down; it does not prevent it.
FLOOD = 1e-3


@dataclass(frozen=True)
class _Layer:
    """Weights of one map, encoded at the level where they are used; None where a diagonal is zero."""

    diagonals: tuple[tuple[Any, ...], ...]  # [giant step][baby step]
    offset: Any
    doublings: tuple[int, ...]
    period: int


class Engine:
    """A plan with its weights encoded once; `evaluate` is then about a tenth to half a second on one core."""

    def __init__(self, plan: Plan) -> None:
        self.scheme = Scheme(plan.parameters)
        level = self.scheme.context.first_context_data()
        scale = self.scheme.scale
        layers = []
        for index, (packed, offset) in enumerate(zip(plan.maps, plan.offsets, strict=True)):
            if index > 0:  # a squaring and its rescaling lie before this map
                scale = scale * scale / self.scheme.last_modulus(level.parms_id())
                level = level.next_context_data()
            # the weights' scale is chosen so that rescaling leads back to the scheme's own scale exactly
            weight_scale = self.scheme.scale * self.scheme.last_modulus(level.parms_id()) / scale
            diagonals = tuple(
                tuple(
                    self._encoded_unless_zero(packed.slots(giant, baby), level.parms_id(), weight_scale)
                    for baby in range(packed.baby)
                )
                for giant in range(packed.giant)
            )
            if not any(plain is not None for row in diagonals for plain in row):
                raise EncryptionError(f"Layer {index + 1} has weights too small to encode; train the network again.")
            level, scale = level.next_context_data(), self.scheme.scale
            layers.append(
                _Layer(
                    diagonals=diagonals,
                    offset=self.scheme.encoded(repeat(offset, period=packed.rows_padded), level.parms_id(), scale),
                    doublings=packed.doublings,
                    period=packed.rows_padded,
                )
            )
        self._layers = tuple(layers)

    def evaluate(self, contents: Sequence[bytes], keys: EvaluationKeys) -> bytes:
        """The ciphertexts of an image -> the encrypted logits at the lowest level, flooded and re-randomised.

        Raises:
            EncryptionError: the bytes are no ciphertext of the agreed form, or the keys cannot serve it.
        """
        if len(contents) != 1:
            raise EncryptionError(f"A question has 1 ciphertext here, not {len(contents)}; encrypt the image again.")
        value = self.scheme.load_fresh(contents[0])
        with in_one_sentence("The encrypted image"):
            for index, layer in enumerate(self._layers):
                if index > 0:
                    self._square(value, keys)
                value = self._apply(layer, value, keys)
            self._flood(value, self._layers[-1].period, keys)
            return self.scheme.save(value)

    def _encoded_unless_zero(self, values: Floats, parms_id: Any, scale: float) -> Any:
        plain = self.scheme.encoded(values, parms_id, scale)
        return None if plain.is_zero() else plain  # SEAL refuses products with zero: they would be readable by anyone

    def _square(self, value: Any, keys: EvaluationKeys) -> None:
        evaluator = self.scheme.evaluator
        evaluator.square_inplace(value)
        evaluator.relinearize_inplace(value, keys.relinearisation)
        evaluator.rescale_to_next_inplace(value)

    def _apply(self, layer: _Layer, value: Any, keys: EvaluationKeys) -> Any:
        evaluator = self.scheme.evaluator
        turned = [value]
        for step in range(1, len(layer.diagonals[0])):
            turned.append(self._rotated(value, step, keys))
        total = None
        for giant, row in enumerate(layer.diagonals):
            inner = None
            for plain, rotated in zip(row, turned, strict=True):
                if plain is None:
                    continue
                product = seal.Ciphertext()
                evaluator.multiply_plain(rotated, plain, product)
                inner = product if inner is None else self._sum(inner, product)
            if inner is None:
                continue
            if giant > 0:
                inner = self._rotated(inner, giant * len(row), keys)
            total = inner if total is None else self._sum(total, inner)
        assert total is not None, "a layer of zeros is refused when the engine is built"
        evaluator.rescale_to_next_inplace(total)  # before the doublings: rotations are cheaper with fewer primes
        for step in layer.doublings:
            total = self._sum(total, self._rotated(total, step, keys))
        evaluator.add_plain_inplace(total, layer.offset)
        return total

    def _rotated(self, value: Any, step: int, keys: EvaluationKeys) -> Any:
        result = seal.Ciphertext()
        self.scheme.evaluator.rotate_vector(value, step, keys.galois, result)
        return result

    def _sum(self, total: Any, addend: Any) -> Any:
        self.scheme.evaluator.add_inplace(total, addend)
        return total

    def _flood(self, value: Any, period: int, keys: EvaluationKeys) -> None:
        """Add noise, and an encryption of zero that makes the ciphertext's random half independent of the weights.

        The answer is repeated over the slots: noise of its own for each slot averages out over the copies, so an equal
        part is repeated with the answer.
        """
        alike = np.tile(_normal(period), SLOTS // period)
        apart = _normal(SLOTS) + 1j * _normal(SLOTS)
        noise = self.scheme.encoded(FLOOD * (alike + apart), value.parms_id(), value.scale)
        self.scheme.evaluator.add_plain_inplace(value, noise)
        zero = seal.Ciphertext()
        seal.Encryptor(self.scheme.context, keys.public).encrypt_zero(value.parms_id(), zero)
        zero.scale = value.scale
        self.scheme.evaluator.add_inplace(value, zero)


def _normal(count: int) -> Floats:
    """Standard normal values (count,) from the operating system's randomness (Box & Muller 1958)."""
    words = np.frombuffer(os.urandom(16 * count), dtype=np.uint64).reshape(2, count)
    radius, angle = (words >> np.uint64(11)) * 2.0**-53
    return np.asarray(np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * angle))
