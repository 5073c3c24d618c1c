"""One parameter's gradient for each patient of a batch: written out, or as the two factors whose product it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# A gradient that is written out is written, read for its norm and read again for the sum: per value, that takes as
# long as about this many of the multiplications that a ghost norm takes.
_COST_OF_A_VALUE = 32
# Values that are worked on at a time: a mebibyte of float32, which stays in the processor's cache.
AT_A_TIME = 2**18
# What rounding in float32 may take off a sum of products of inner products, in units of the sum of their absolutes.
_ROUNDING = 2.0**-20


@dataclass(frozen=True)
class Written:
    """Gradients written out: `values` is (patients, *shape), float32 or bfloat16."""

    values: Tensor

    def squared_norms(self, scales: Tensor) -> Tensor:
        """Squared L2 norm of each patient's share in `weighted_sum`, (patients,) float64; scales as there."""
        return self._squares * scales.double().square()

    def weighted_sum(self, scales: Tensor) -> Tensor:
        """Sum of scale times gradient, (*shape) float32; scales are (patients,) float32."""
        columns = max(1, AT_A_TIME // len(scales)) if len(scales) else AT_A_TIME
        parts = [scales @ part.float() for part in torch.split(self.values.flatten(1), columns, dim=1)]
        return torch.cat(parts).view(self.values.shape[1:])

    def only(self, patients: Tensor) -> "Written":
        """The patients for whom `patients`, (patients,) bool, is true."""
        return Written(self.values[patients])

    @cached_property
    def _squares(self) -> Tensor:
        return _squared_lengths(self.values.flatten(1)).double()


@dataclass(frozen=True)
class Factored:
    """Gradients that are outputsᵀ·inputs for each patient, and never written out (ghost clipping, Bu et al. 2022).

    inputs is (patients, t, d) and outputs (patients, t, p), both float32. With `rounded` they hold values of bfloat16:
    the product of any two is then exact in float32, on whatever unit the processor multiplies them.
    """

    inputs: Tensor
    outputs: Tensor
    rounded: bool

    def squared_norms(self, scales: Tensor) -> Tensor:
        """Squared L2 norm of each patient's share in `weighted_sum`, (patients,) float64; scales as there.

        ‖Σₜ gₜ ⊗ xₜ‖² = Σₜₛ (gₜ·gₛ)(xₜ·xₛ) (Li et al. 2022, section 4), whose terms may cancel while their rounding does
        not: a margin in units of (Σₜ ‖gₜ‖‖xₜ‖)² keeps the result from being too small.
        """
        of_inputs, of_outputs = self._inner_inputs, self._inner(self._scaled(scales))
        squares = of_inputs.diagonal(dim1=1, dim2=2).double() * of_outputs.diagonal(dim1=1, dim2=2).double()
        margin = _ROUNDING * squares.sqrt().sum(dim=1).square()
        return (of_inputs * of_outputs).sum(dim=(1, 2), dtype=torch.float64).clamp_min(0) + margin

    def weighted_sum(self, scales: Tensor) -> Tensor:
        """Sum of scale times gradient, (p, d) float32; scales are (patients,) float32."""
        with _bfloat16_units(self.rounded):
            return self._scaled(scales).flatten(0, 1).T @ self.inputs.flatten(0, 1)

    def only(self, patients: Tensor) -> "Factored":
        """The patients for whom `patients`, (patients,) bool, is true."""
        return Factored(self.inputs[patients], self.outputs[patients], self.rounded)

    def _scaled(self, scales: Tensor) -> Tensor:
        outputs = self.outputs * scales[:, None, None]
        return outputs.bfloat16().float() if self.rounded else outputs

    @cached_property
    def _inner_inputs(self) -> Tensor:
        return self._inner(self.inputs)

    def _inner(self, rows: Tensor) -> Tensor:
        if rows.shape[1] == 1:
            return _squared_lengths(rows[:, 0])[:, None, None]
        with _bfloat16_units(self.rounded):
            return torch.bmm(rows, rows.mT)


PatientGradients = Written | Factored


def better_factored(t: int, d: int, p: int) -> bool:
    """Whether the norms and the sum of outputsᵀ·inputs, (p, t) · (t, d), cost less if it is never written out."""
    return t * t * (d + p) < _COST_OF_A_VALUE * d * p


def _squared_lengths(rows: Tensor) -> Tensor:
    """Squared L2 norms of rows (n, d), (n,) float32, summed pairwise."""
    parts = torch.split(rows, max(1, AT_A_TIME // rows.shape[1]))
    return torch.cat([part.float().square().sum(dim=1) for part in parts])


@contextmanager
def _bfloat16_units(rounded: bool) -> Iterator[None]:
    """Let oneDNN multiply float32 matrices on the units for bfloat16, which is exact if their values are rounded."""
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    try:
        if rounded:
            matmul.fp32_precision = "bf16"
        yield
    finally:
        matmul.fp32_precision = before
