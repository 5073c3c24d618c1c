"""The server's side of a diagnosis: the plan evaluated on ciphertexts it cannot read."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from primia.encrypted.ckks import EvaluationKeys, Scheme, in_one_sentence
from primia.encrypted.layout import laid_out
from primia.encrypted.packing import Floats, PackedMap
from primia.encrypted.plan import Plan
from primia.errors import EncryptionError

# Standard deviation of the noise added to every logit. CKKS' own rounding noise, about 5e-4 here, depends on the
# weights and is blurred by it, not hidden: that would take noise many bits larger, hence a larger N. The flood slows
# the extraction of weights from answers down; it does not prevent it. Larger noise would decide between classes that
# are nearly as likely.
FLOOD = 5e-4


@dataclass(frozen=True)
class _Layer:
    """A map with its weights encoded at the level where they are used.

    products: for each source ciphertext and baby step, what it is multiplied with, and which sum (result, giant step)
    that is added to.
    """

    products: dict[tuple[int, int], list[tuple[Any, tuple[int, int]]]]
    offsets: tuple[Any, ...]
    doublings: tuple[int, ...]


class Engine:
    """A plan with its weights encoded once; `evaluate` is then a tenth to half a second on one core at N = 8192."""

    def __init__(self, plan: Plan) -> None:
        self.scheme = Scheme(plan.parameters)
        self.ciphertexts = plan.inputs.ciphertexts(plan.slots)
        self._classes_padded = plan.steps[-1].layout.period
        level = self.scheme.context.first_context_data()
        scale = self.scheme.scale
        layers = []
        for index, (step, packed, offset) in enumerate(zip(plan.steps, plan.maps, plan.offsets, strict=True)):
            last = index + 1 == len(plan.steps)
            if index > 0:  # a squaring and its rescaling lie before this map
                scale = scale * scale / self.scheme.last_modulus(level.parms_id())
                level = level.next_context_data()
            # the weights' scale is chosen so that rescaling leads back to the scheme's own scale exactly
            weight_scale = self.scheme.scale * self.scheme.last_modulus(level.parms_id()) / scale
            factor = 0.5 if last else 1.0  # the answer and its complex conjugate are added up, see `_make_real`
            products = self._encoded(packed, level.parms_id(), weight_scale, factor=factor)
            shifts = laid_out(factor * offset[None], step.layout, plan.slots)[0]
            if len({result for group in products.values() for _, (result, _) in group}) < len(shifts):
                raise EncryptionError(
                    f"Layer {step.label} has weights that are zero or too small to encode; train the network again."
                )
            level, scale = level.next_context_data(), self.scheme.scale
            layers.append(
                _Layer(
                    products=products,
                    offsets=tuple(self.scheme.encoded(shift, level.parms_id(), scale) for shift in shifts),
                    doublings=packed.diagonals.doublings,
                )
            )
        self._layers = tuple(layers)

    def _encoded(
        self, packed: PackedMap, parms_id: Any, scale: float, *, factor: float
    ) -> dict[tuple[int, int], list[tuple[Any, tuple[int, int]]]]:
        products: dict[tuple[int, int], list[tuple[Any, tuple[int, int]]]] = defaultdict(list)
        diagonals, steps = packed.diagonals, packed.steps
        for index in range(diagonals.count):
            plain = self.scheme.encoded(factor * packed.weights(index), parms_id, scale)
            if plain.is_zero():  # SEAL refuses products with zero: they would be readable by anyone
                continue
            source = int(diagonals.source[index]), int(steps.baby[index])
            products[source].append((plain, (int(diagonals.to[index]), int(steps.giant[index]))))
        return dict(products)

    def evaluate(self, contents: Sequence[bytes], keys: EvaluationKeys) -> bytes:
        """The ciphertexts of an image -> the encrypted logits at the lowest level, flooded and re-randomised.

        Raises:
            EncryptionError: the bytes are no ciphertexts of the agreed form, or the keys cannot serve them.
        """
        if len(contents) != self.ciphertexts:
            raise EncryptionError(
                f"A question has {self.ciphertexts} ciphertexts here, not {len(contents)}; encrypt the image again."
            )
        values = [self.scheme.load_fresh(content) for content in contents]
        with in_one_sentence("The encrypted image"):
            for index, layer in enumerate(self._layers):
                if index > 0:
                    for value in values:
                        self._square(value, keys)
                values = self._apply(layer, values, keys)
            (value,) = values
            self._make_real(value, keys)
            self._flood(value, keys)
            return self.scheme.save(value)

    def _square(self, value: Any, keys: EvaluationKeys) -> None:
        evaluator = self.scheme.evaluator
        evaluator.square_inplace(value)
        evaluator.relinearize_inplace(value, keys.relinearisation)
        evaluator.rescale_to_next_inplace(value)

    def _apply(self, layer: _Layer, values: list[Any], keys: EvaluationKeys) -> list[Any]:
        evaluator = self.scheme.evaluator
        sums: dict[tuple[int, int], Any] = {}
        for (source, baby), products in layer.products.items():
            turned = self._rotated(values[source], baby, keys)
            for plain, place in products:
                product = seal.Ciphertext()
                evaluator.multiply_plain(turned, plain, product)
                self._add(sums, place, product)
        results: dict[int, Any] = {}
        for (result, giant), value in sums.items():
            self._add(results, result, self._rotated(value, giant, keys))
        done = []
        for number, offset in enumerate(layer.offsets):
            total = results[number]
            evaluator.rescale_to_next_inplace(total)  # before the doublings: rotations are cheaper with fewer primes
            for step in layer.doublings:
                evaluator.add_inplace(total, self._rotated(total, step, keys))
            evaluator.add_plain_inplace(total, offset)
            done.append(total)
        return done

    def _rotated(self, value: Any, step: int, keys: EvaluationKeys) -> Any:
        if step == 0:
            return value
        result = seal.Ciphertext()
        self.scheme.evaluator.rotate_vector(value, step, keys.galois, result)
        return result

    def _add(self, sums: dict[Any, Any], place: Any, addend: Any) -> None:
        if place in sums:
            self.scheme.evaluator.add_inplace(sums[place], addend)
        else:
            sums[place] = addend

    def _make_real(self, value: Any, keys: EvaluationKeys) -> None:
        """Add the complex conjugate: a question with imaginary parts would get a second answer in those."""
        conjugate = seal.Ciphertext()
        self.scheme.evaluator.complex_conjugate(value, keys.galois, conjugate)
        self.scheme.evaluator.add_inplace(value, conjugate)

    def _flood(self, value: Any, keys: EvaluationKeys) -> None:
        """Add noise, and an encryption of zero that makes the ciphertext's random half independent of the weights.

        The answer is repeated over the slots: noise of its own for each slot averages out over the copies, so an equal
        part is repeated with the answer.
        """
        slots = self.scheme.parameters.slots
        alike = np.tile(_normal(self._classes_padded), slots // self._classes_padded)
        apart = _normal(slots) + 1j * _normal(slots)
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
