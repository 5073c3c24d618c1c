"""A plan: sparse maps with squarings between them, how each is packed, and the parameters that follow."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.sparse import csr_array

from primia.encrypted.layout import Layout
from primia.encrypted.packing import Floats, Kind, PackedMap, pack
from primia.encrypted.parameters import MOST_GALOIS_KEYS, Parameters, parameters_for
from primia.errors import EncryptionError

# The last modulus holds answers up to 2^9; five times less leaves room for images unlike those the range was seen on.
LARGEST_LOGIT = 100.0
# Squaring x multiplies the rounding noise of about 1e-5 by 2|x|, and twice in a row: above, the answer gets vague.
LARGEST_ACTIVATION_INPUT = 32.0
# What a worker process, which is limited in memory, holds: all weights encoded, and one client's keys expanded.
MOST_WEIGHT_BYTES = 2 << 30
MOST_KEY_BYTES = 3 << 29
Degree = Literal[8192, 16384]
Profile = Literal["fast", "deep"]
PROFILES: dict[Profile, Degree] = {"fast": 8192, "deep": 16384}


class Step(BaseModel):
    """How one map is packed: the layers it stands for, its kind, its baby steps, and where its result lies."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    label: str = Field(max_length=1000)
    kind: Kind
    baby: int = Field(ge=1, le=1 << 20)
    layout: Layout


@dataclass(frozen=True)
class Plan:
    """answer = M_k (... (M_2 (M_1 x + c_1)² + c_2)² ...) + c_k, squares taken per element.

    inputs: where x lies in a question; matrices: (rows, columns) float64; offsets: (rows,) float64; largest: the
    largest absolute value met before each activation and in the answer, on the images the network was trained with.
    """

    degree: Degree
    inputs: Layout
    steps: tuple[Step, ...]
    matrices: tuple[csr_array, ...]
    offsets: tuple[Floats, ...]
    largest: tuple[float, ...]

    @property
    def slots(self) -> int:
        """Values that one ciphertext holds."""
        return self.degree // 2

    @cached_property
    def maps(self) -> tuple[PackedMap, ...]:
        """The matrices as diagonals; the last is folded over all slots, so that only its rows leave."""
        return tuple(
            pack(
                matrix,
                before,
                step.layout,
                kind=step.kind,
                baby=step.baby,
                slots=self.slots,
                over_all=number == len(self.steps),
            )
            for number, (matrix, before, step) in enumerate(
                zip(self.matrices, self.befores, self.steps, strict=True), 1
            )
        )

    @property
    def befores(self) -> tuple[Layout, ...]:
        """Where the input of each map lies."""
        return (self.inputs, *(step.layout for step in self.steps[:-1]))

    @cached_property
    def parameters(self) -> Parameters:
        """As many levels as the plan multiplies, and exactly the keys it uses: its rotations, and conjugation."""
        rotations = {step for packed in self.maps for step in packed.steps.rotations() | {*packed.diagonals.doublings}}
        if len(rotations) >= MOST_GALOIS_KEYS:
            raise EncryptionError(
                f"The network needs {len(rotations)} rotation keys, but fewer than {MOST_GALOIS_KEYS} are allowed; "
                "use smaller kernels or fewer channels."
            )
        parameters = parameters_for(degree=self.degree, levels=levels(len(self.steps)), rotations=rotations)
        assert parameters is not None, "check() has accepted the plan"
        return parameters

    def logits(self, inputs: Floats) -> Floats:
        """The same function in the clear: (n, columns) -> (n, rows of the last matrix), float64."""
        values = inputs.T
        for number, (matrix, offset) in enumerate(zip(self.matrices, self.offsets, strict=True)):
            values = matrix @ (np.square(values) if number else values) + offset[:, None]
        return np.ascontiguousarray(values.T)

    def check(self) -> None:
        """Refuse what cannot be evaluated.

        Raises:
            EncryptionError: names the layers that break, by what, and what to make smaller.
        """
        check_depth([step.label for step in self.steps], self.degree)
        self._check_structure()
        for step, matrix, offset in zip(self.steps, self.matrices, self.offsets, strict=True):
            if not (np.isfinite(matrix.data).all() and np.isfinite(offset).all()):
                raise EncryptionError(f"Layer {step.label} has weights that are not finite; train the network again.")
            if not matrix.data.any():
                raise EncryptionError(f"Layer {step.label} has only zero weights; train the network again.")
        self._check_ranges()
        self._check_memory()

    def _check_structure(self) -> None:
        """What a damaged bundle could hold; `pack` and the engine rely on it."""
        last = self.steps[-1]
        rows = [matrix.shape[0] for matrix in self.matrices]
        fits = (
            last.kind == "folded"
            and self.inputs.values == self.matrices[0].shape[1]
            and all(step.layout.values == count for step, count in zip(self.steps, rows, strict=True))
            and all(len(offset) == count for offset, count in zip(self.offsets, rows, strict=True))
            and all(matrix.shape[1] == count for matrix, count in zip(self.matrices[1:], rows, strict=False))
            and all(layout.is_sound(self.slots) for layout in (self.inputs, *(step.layout for step in self.steps)))
            and all(step.baby & (step.baby - 1) == 0 for step in self.steps)
            and all(
                step.layout.period <= self.slots and step.layout == Layout.folded(_shape(step.layout))
                if step.kind == "folded"
                else min(step.layout.period, self.slots) % min(before.period, self.slots) == 0
                for step, before in zip(self.steps, self.befores, strict=True)
            )
        )
        if not fits:
            raise EncryptionError("The encrypted model's maps do not fit one another; run the encrypt stage again.")

    def _check_ranges(self) -> None:
        for number, (step, largest) in enumerate(zip(self.steps, self.largest, strict=True), 1):
            last = number == len(self.largest)
            limit = LARGEST_LOGIT if last else LARGEST_ACTIVATION_INPUT
            if not 0.0 < largest < limit:
                what = "logits" if last else "inputs of its activation"
                raise EncryptionError(
                    f"Layer {step.label} gives {what} up to {largest:.3g}, but encrypted evaluation needs them "
                    f"measured and below {limit:g}; distil again with a smaller learning rate or more epochs."
                )

    def _check_memory(self) -> None:
        sizes = [
            packed.diagonals.count * primes * self.degree * 8
            for packed, primes in zip(self.maps, self.primes, strict=True)
        ]
        if sum(sizes) > MOST_WEIGHT_BYTES:
            step = self.steps[int(np.argmax(sizes))]
            raise EncryptionError(
                f"Layer {step.label} takes {max(sizes) / 2**30:.1f} GiB of encoded weights, more than a worker may "
                "have; use fewer channels or hidden units, or patches."
            )
        chosen = self.parameters
        primes = len(chosen.modulus_bits)
        keys = (len(chosen.galois_elements) + 1) * 2 * (primes - 1) * primes * self.degree * 8
        if keys > MOST_KEY_BYTES:
            raise EncryptionError(
                f"The network needs {len(chosen.galois_elements)} rotation keys, which take {keys / 2**30:.1f} GiB, "
                "more than a worker may have for a client; use smaller kernels or fewer channels or activations."
            )

    @property
    def primes(self) -> tuple[int, ...]:
        """Primes left where each map is evaluated."""
        return tuple(2 * (len(self.steps) - number) for number in range(len(self.steps)))

    def describe(self) -> str:
        """The plan as a table: a line per map, then the parameters."""
        columns = (
            f"{'kind':<8}{'shape':<18}{'ciphertexts':>12}{'products':>10}{'rotations':>10}{'level':>7}{'largest':>9}"
        )
        width = max(len(step.label) for step in self.steps) + 2
        lines = [f"{'layer':<{width}}{columns}"]
        for number, (step, packed, before) in enumerate(zip(self.steps, self.maps, self.befores, strict=True)):
            shape = f"{self.matrices[number].shape[1]} -> {self.matrices[number].shape[0]}"
            counts = f"{before.ciphertexts(self.slots)} -> {step.layout.ciphertexts(self.slots)}"
            lines.append(
                f"{step.label:<{width}}{step.kind:<8}{shape:<18}{counts:>12}{packed.diagonals.count:>10}"
                f"{packed.rotations:>10}{2 * number:>7}{self.largest[number]:>9.3g}"
            )
        chosen = self.parameters
        lines.append(
            f"N = {self.degree}, moduli {'+'.join(map(str, chosen.modulus_bits))} = {sum(chosen.modulus_bits)} bits, "
            f"{chosen.levels} levels at scale 2^{chosen.scale_bits}, {len(chosen.galois_elements)} Galois keys"
        )
        return "\n".join(lines)


def levels(maps: int) -> int:
    """A level for each map and for each squaring between two."""
    return 2 * maps - 1


def check_depth(labels: list[str], degree: Degree) -> None:
    """Refuse a chain of maps that is too long for a degree, naming the first that does not fit."""
    for number, label in enumerate(labels, 1):
        if parameters_for(degree=degree, levels=levels(number), rotations=()) is None:
            deeper = "the profile deep, or " if degree < max(PROFILES.values()) else ""
            raise EncryptionError(
                f"Layer {label} needs {levels(number)} multiplications in a row, which 128-bit security at "
                f"N = {degree} does not allow; use {deeper}a network with fewer activations."
            )


def _shape(layout: Layout) -> tuple[int, int, int]:
    return layout.channels, layout.height, layout.width
