"""Networks whose only non-linearity is x² + x, so that they can be evaluated on encrypted images."""

from collections.abc import Iterator
from typing import Literal, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

Front = Literal["shrink", "scattering"]


class Quadratic(nn.Module):
    """x² + x, element by element.

    It equals (x + 1/2)² - 1/4, so under encryption it costs one squaring: the constants are folded into the
    neighbouring linear maps.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return values.square() + values


def shrink(images: Tensor, *, pixels: int) -> Tensor:
    """Resize by area and flatten: (n, 1, p, p) in [0, 1] of any float type -> (n, pixels²) float32."""
    small = functional.interpolate(images.to(torch.float32), size=(pixels, pixels), mode="area")
    return small.flatten(1)


class PolynomialNetwork(nn.Module):
    """A chain of linear layers and quadratics on what a public front makes of an image.

    `body` is a flat `nn.Sequential` of Conv2d, Linear, AvgPool2d, BatchNorm1d, BatchNorm2d, Flatten and Quadratic
    only. Batch-norm keeps the inputs of the polynomials small, without which they do not train (Chabanne et al.
    2017); the compiler folds it.

    Args:
        body: takes (n, *shape), gives logits (n, classes).
        shape: (channels, height, width) of what the front gives.
        front: `shrink` (resize by area to the height of `shape`, then standardise by `mean` and `std`) or `scattering`
            (standardise, then the front of the scattering network); computed by the client in the clear.
        patch: side of the patches that the first convolution takes without overlap, 1 if it is none; a hint for the
            packing.

    `largest` remembers the largest absolute value met before each quadratic and in the logits (see `record_ranges`);
    zero until it was measured.
    """

    mean: Tensor
    std: Tensor
    largest: Tensor

    def __init__(
        self, body: nn.Sequential, *, shape: tuple[int, int, int], front: Front = "shrink", patch: int = 1
    ) -> None:
        super().__init__()
        self.body, self.shape, self.front, self.patch = body, shape, front, patch
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))
        self.register_buffer("largest", torch.zeros(1 + sum(isinstance(layer, Quadratic) for layer in body)))

    @property
    def pixels(self) -> int:
        """Height of what the front gives."""
        return self.shape[1]

    def inputs(self, images: Tensor) -> Tensor:
        """Images (n, 1, p, p) in [0, 1] -> what `forward` takes: (n, channels · height · width) float32."""
        if self.front == "scattering":
            from primia.models.networks import build_network

            front = build_network("scattering", classes=2, pixels=images.shape[-1], seed=0).front
            return cast(Tensor, front((images.float() - self.mean) / self.std).flatten(1))
        return (shrink(images, pixels=self.pixels) - self.mean) / self.std

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, channels · height · width) -> logits (n, classes)."""
        *_, logits = self.stages(inputs)
        return logits

    def stages(self, inputs: Tensor) -> Iterator[Tensor]:
        """The values before each quadratic, in order, then the logits (n, classes)."""
        values = inputs.view(-1, *self.shape)
        for layer in self.body:
            if isinstance(layer, Quadratic):
                yield values
            values = layer(values)
        yield values

    @torch.no_grad()
    def record_ranges(self, inputs: Tensor) -> None:
        """Remember the largest absolute value at each stage over `inputs`; leaves the network in eval."""
        self.eval()
        for batch in torch.split(inputs, 1024):
            met = torch.stack([stage.abs().max() for stage in self.stages(batch)])
            self.largest.copy_(torch.maximum(self.largest, met))


def dense_network(pixels: int, hidden: int, classes: int) -> PolynomialNetwork:
    """pixels² -> hidden -> x² + x -> hidden -> x² + x -> classes, with a batch-norm before each quadratic."""
    body = nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels**2, hidden),
        nn.BatchNorm1d(hidden),
        Quadratic(),
        nn.Linear(hidden, hidden),
        nn.BatchNorm1d(hidden),
        Quadratic(),
        nn.Linear(hidden, classes),
    )
    return PolynomialNetwork(body, shape=(1, pixels, pixels))
