"""From a trained polynomial network to a plan: folded linear maps, packed, with squarings between them."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from primia.encrypted.packing import Floats, PackedMap, pack, padded
from primia.encrypted.parameters import SLOTS, Parameters, parameters_for
from primia.errors import EncryptionError

if TYPE_CHECKING:  # the server never loads torch
    from torch import Tensor, nn

    from primia.models.polynomial import PolynomialNetwork

# The last modulus holds answers up to 2^9; five times less leaves room for images unlike those the range was seen on.
LARGEST_LOGIT = 100.0
# Squaring x multiplies the rounding noise of about 1e-5 by 2|x|, and twice in a row: above, the answer gets vague.
LARGEST_ACTIVATION_INPUT = 32.0


@dataclass(frozen=True)
class Plan:
    """answer = M_k (... (M_2 (M_1 x + c_1)² + c_2)² ...) + c_k, squares taken per element.

    matrices: (rows, columns) float64; offsets: (rows,) float64; largest: the largest absolute value met before each
    activation and in the answer, on the images the network was trained with.
    """

    matrices: tuple[Floats, ...]
    offsets: tuple[Floats, ...]
    largest: tuple[float, ...]

    @cached_property
    def maps(self) -> tuple[PackedMap, ...]:
        """The matrices as diagonals, each on the period its predecessor leaves."""
        maps: list[PackedMap] = []
        for matrix in self.matrices:
            maps.append(pack(matrix, columns_padded=maps[-1].rows_padded if maps else None))
        return tuple(maps)

    @cached_property
    def parameters(self) -> Parameters:
        """N = 8192 with as many levels as the plan multiplies, and exactly the rotations it makes."""
        rotations = tuple(sorted({step for packed in self.maps for step in packed.rotations}))
        parameters = parameters_for(levels=_levels(len(self.matrices)), rotations=rotations)
        assert parameters is not None, "check() has accepted the plan"
        return parameters

    @property
    def period(self) -> int:
        """The input (columns,) is padded to this length and repeated over all slots."""
        return padded(self.matrices[0].shape[1])

    def logits(self, inputs: Floats) -> Floats:
        """The same function in the clear: (n, columns) -> (n, rows of the last matrix), float64."""
        values = inputs @ self.matrices[0].T + self.offsets[0]
        for matrix, offset in zip(self.matrices[1:], self.offsets[1:], strict=True):
            values = np.square(values) @ matrix.T + offset
        return values

    def check(self) -> None:
        """Refuse what N = 8192 cannot hold.

        Raises:
            EncryptionError: names the layer that breaks, by what, and what to make smaller.
        """
        for number, (matrix, offset) in enumerate(zip(self.matrices, self.offsets, strict=True), 1):
            rows, columns = matrix.shape
            if max(rows, columns) > SLOTS:
                raise EncryptionError(
                    f"Layer {number} maps {columns} values to {rows}, but one ciphertext holds {SLOTS}; "
                    "use fewer pixels or hidden units."
                )
            if parameters_for(levels=_levels(number), rotations=(1,)) is None:
                raise EncryptionError(
                    f"Layer {number} needs {_levels(number)} multiplications in a row, which 128-bit security at "
                    "N = 8192 does not allow; use a network with fewer layers."
                )
            if not (np.isfinite(matrix).all() and np.isfinite(offset).all()):
                raise EncryptionError(f"Layer {number} has weights that are not finite; train the network again.")
            if not matrix.any():
                raise EncryptionError(f"Layer {number} has only zero weights; train the network again.")
        self._check_ranges()

    def _check_ranges(self) -> None:
        for number, largest in enumerate(self.largest, 1):
            last = number == len(self.largest)
            limit = LARGEST_LOGIT if last else LARGEST_ACTIVATION_INPUT
            if not 0.0 < largest < limit:
                what = "logits" if last else "inputs of its activation"
                raise EncryptionError(
                    f"Layer {number} gives {what} up to {largest:.3g}, but encrypted evaluation needs them measured "
                    f"and below {limit:g}; distil again with a smaller learning rate or more epochs."
                )

    def describe(self) -> str:
        """The plan as a table: a line per layer, then the parameters."""
        lines = [f"{'layer':<8}{'shape':<14}{'diagonals':>10}{'rotations':>10}{'squaring':>9}{'largest':>9}"]
        for number, (packed, largest) in enumerate(zip(self.maps, self.largest, strict=True), 1):
            shape = f"{packed.columns} -> {packed.rows}"
            rotations = packed.baby + packed.giant - 2 + len(packed.doublings)
            squaring = "yes" if number < len(self.maps) else "no"
            lines.append(
                f"{number:<8}{shape:<14}{packed.baby * packed.giant:>10}{rotations:>10}{squaring:>9}{largest:>9.3g}"
            )
        chosen = self.parameters
        lines.append(
            f"N = {2 * SLOTS}, moduli of {'+'.join(map(str, chosen.modulus_bits))} = {sum(chosen.modulus_bits)} bits, "
            f"{chosen.levels} levels at scale 2^{chosen.scale_bits}, {len(chosen.galois_elements)} Galois keys"
        )
        return "\n".join(lines)


def _levels(layers: int) -> int:
    return 2 * layers - 1  # a level for each map and for each squaring between two


def _floats(tensor: "Tensor | nn.Module | None") -> Floats:
    return np.array(cast("Tensor", tensor).detach().double().numpy())


def compile_network(network: "PolynomialNetwork") -> Plan:
    """Fold batch-norms, and the constants of x² + x = (x + 1/2)² - 1/4, into the linear maps.

    Raises:
        EncryptionError: the network does not fit (see `Plan.check`).
    """
    from torch import nn

    matrices: list[Floats] = []
    offsets: list[Floats] = []
    linears = [layer for layer in network.body if isinstance(layer, nn.Linear)]
    norms = [layer for layer in network.body if isinstance(layer, nn.BatchNorm1d)]
    for index, linear in enumerate(linears):
        matrix = _floats(linear.weight)
        offset = _floats(linear.bias)
        if index > 0:
            offset = offset - 0.25 * matrix.sum(axis=1)
        if index < len(norms):
            norm = norms[index]
            factor = _floats(norm.weight) / np.sqrt(_floats(norm.running_var) + norm.eps)
            matrix = factor[:, None] * matrix
            offset = factor * (offset - _floats(norm.running_mean)) + _floats(norm.bias) + 0.5
        matrices.append(np.ascontiguousarray(matrix))
        offsets.append(np.ascontiguousarray(offset))
    plan = Plan(
        matrices=tuple(matrices),
        offsets=tuple(offsets),
        largest=tuple(float(value) for value in network.largest),
    )
    plan.check()
    return plan
