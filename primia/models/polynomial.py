"""A dense network whose only non-linearity is x² + x, so that it can be evaluated on encrypted images."""

from typing import cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn


def shrink(images: Tensor, *, pixels: int) -> Tensor:
    """Resize by area and flatten: (n, 1, p, p) in [0, 1] of any float type -> (n, pixels²) float32."""
    small = functional.interpolate(images.to(torch.float32), size=(pixels, pixels), mode="area")
    return small.flatten(1)


class PolynomialNetwork(nn.Module):
    """pixels² -> hidden -> act -> hidden -> act -> classes, where act(x) = x² + x after a batch-norm.

    x² + x = (x + 1/2)² - 1/4, so under encryption an activation costs one squaring: the constants, like the
    batch-norms, are folded into the neighbouring linear maps (`primia.encrypted.plan`). Batch-norm keeps the inputs of
    the polynomial small, without which it does not train (Chabanne et al. 2017).

    `mean` and `std` standardise the shrunken images; `largest` remembers the largest absolute value met before the
    first activation, before the second, and in the logits (see `record_ranges`); zero until it was measured.
    """

    mean: Tensor
    std: Tensor
    largest: Tensor

    def __init__(self, pixels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.pixels = pixels
        self.linears = nn.ModuleList(
            [nn.Linear(pixels**2, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, classes)]
        )
        self.norms = nn.ModuleList([nn.BatchNorm1d(hidden), nn.BatchNorm1d(hidden)])
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.register_buffer("largest", torch.zeros(3))

    def inputs(self, images: Tensor) -> Tensor:
        """Images (n, 1, p, p) in [0, 1] -> what `forward` takes: (n, pixels²) float32, standardised."""
        return (shrink(images, pixels=self.pixels) - self.mean) / self.std

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, pixels²) standardised -> logits (n, classes)."""
        return self.stages(inputs)[-1]

    def stages(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The values before the first and second activation, (n, hidden) each, and the logits (n, classes)."""
        first, second, last = self.linears
        before_first = self.norms[0](first(inputs))
        before_second = self.norms[1](second(before_first.square() + before_first))
        logits = last(before_second.square() + before_second)
        return before_first, before_second, cast(Tensor, logits)

    @torch.no_grad()
    def record_ranges(self, inputs: Tensor) -> None:
        """Remember the largest absolute value at each stage over `inputs` (n, pixels²); leaves the network in eval."""
        self.eval()
        for batch in torch.split(inputs, 1024):
            met = torch.stack([stage.abs().max() for stage in self.stages(batch)])
            self.largest.copy_(torch.maximum(self.largest, met))
