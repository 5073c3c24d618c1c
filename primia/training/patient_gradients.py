"""One parameter's gradient for each patient of a batch: written out, or as the two factors whose product it is."""

from collections.abc import Callable, Iterator
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

    def along(self, filters: Tensor) -> Tensor:
        """⟨gradient, filter⟩ of gradients (patients, p, d) with each of the filters (p, d), (patients, p)."""
        return self._reduced(lambda values: (values * filters).sum(dim=2))

    def filter_sums(self, along: Tensor, scales: Tensor) -> "FilterSums":
        """Of each patient's share in `weighted_sum`; `along` as from there, scales as in `squared_norms`."""
        scales = scales.double()[:, None]
        squares = self._filter_squares * scales.square()
        return FilterSums(squares, self._filter_sums * scales, along.double() * scales, squares)

    @cached_property
    def _squares(self) -> Tensor:
        return _squared_lengths(self.values.flatten(1)).double()

    @cached_property
    def _filter_squares(self) -> Tensor:
        return self._reduced(lambda values: values.square().sum(dim=2)).double()

    @cached_property
    def _filter_sums(self) -> Tensor:
        return self._reduced(lambda values: values.sum(dim=2)).double()

    def _reduced(self, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        parts = torch.split(self.values, max(1, AT_A_TIME // self.values[0].numel())) if len(self.values) else ()
        return torch.cat([reduce(part.float()) for part in parts]) if parts else reduce(self.values.float())


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

    def along(self, filters: Tensor) -> Tensor:
        """⟨input, filter⟩ of every input with each of the filters (p, d), (patients, t, p)."""
        return self.inputs @ filters.T

    def filter_sums(self, along: Tensor, scales: Tensor) -> "FilterSums":
        """Of each patient's share in `weighted_sum`; `along` as from there, scales as in `squared_norms`."""
        outputs = self._scaled(scales)
        lengths = self._inner_inputs.diagonal(dim1=1, dim2=2).sqrt()[:, :, None]

        def over_places(values: Tensor) -> Tensor:
            return (outputs * values).sum(dim=1, dtype=torch.float64)

        return FilterSums(
            squares=over_places(torch.bmm(self._inner_inputs, outputs)),
            sums=over_places(self._input_sums),
            along=over_places(along),
            sizes=(outputs.abs() * lengths).sum(dim=1, dtype=torch.float64).square(),
        )

    @cached_property
    def _input_sums(self) -> Tensor:
        return self.inputs.sum(dim=2, keepdim=True)

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


@dataclass(frozen=True)
class FilterSums:
    """What a patient's gradients u of filters say about their length across the filters, each (patients, p) float64.

    squares are ‖u‖², sums Σu, along ⟨u, filter⟩; sizes bound the terms that cancel in squares, for the rounding.
    """

    squares: Tensor
    sums: Tensor
    along: Tensor
    sizes: Tensor


@dataclass(frozen=True)
class Standardised:
    """Gradients of weights w from those of the filters g(w) = (w − w̄) / ‖w − w̄‖, without writing out a patient's.

    A gradient u of a filter with d values becomes (u − ū − ⟨u, g⟩g) / ‖w − w̄‖: linear in u, so that one sum is pulled
    back, and its squared length is (‖u‖² − (Σu)²/d − ⟨u, g⟩²) / ‖w − w̄‖².

    of_filters are the gradients u; filters is g, (p, d), a row of zeros where nothing is taken out along it; lengths
    is ‖w − w̄‖, (p,).
    """

    of_filters: Written | Factored
    filters: Tensor
    lengths: Tensor

    def squared_norms(self, scales: Tensor) -> Tensor:
        """Squared L2 norm of each patient's share in `weighted_sum`, (patients,) float64; scales as there."""
        found = self.of_filters.filter_sums(self._along, scales)
        across = found.squares - found.sums.square() / self.filters.shape[1] - found.along.square()
        # The difference may be small beside what it is taken of, whose rounding then counts.
        return ((across.clamp_min(0) + _ROUNDING * found.sizes) / self.lengths.double().square()).sum(dim=1)

    def weighted_sum(self, scales: Tensor) -> Tensor:
        """Sum of scale times gradient, (p, d) float32; scales are (patients,) float32."""
        summed = self.of_filters.weighted_sum(scales)
        along = (summed * self.filters).sum(dim=1, keepdim=True)
        return (summed - summed.mean(dim=1, keepdim=True) - along * self.filters) / self.lengths[:, None]

    def only(self, patients: Tensor) -> "Standardised":
        """The patients for whom `patients`, (patients,) bool, is true."""
        return Standardised(self.of_filters.only(patients), self.filters, self.lengths)

    @cached_property
    def _along(self) -> Tensor:
        return self.of_filters.along(self.filters)


PatientGradients = Written | Factored | Standardised


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
