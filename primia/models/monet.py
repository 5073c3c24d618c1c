"""MoNet (Knolle et al. 2021): a shallow U-Net that sees far, since its convolutions are dilated."""

from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from primia.models.blocks import Convolution
from primia.models.segmenting import CHANNELS_A_GROUP, Joined, UShaped, draw, logits

FEATURES = (16, 32, 64)  # channels of its levels, each half as large as the one before
DILATIONS = (4, 3, 2, 1)


class DecreasingDilation(nn.Module):
    """Four convolutions one after another whose dilation decreases, each pair around a residual (the RDDC block)."""

    def __init__(self, channels: int, *, convolution: Convolution) -> None:
        super().__init__()
        self.steps = nn.ModuleList(
            _activated(channels, channels, convolution, dilation=dilation) for dilation in DILATIONS
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, channels, ...) to the same shape."""
        first, second, third, fourth = self.steps
        middle = second(maps + first(maps))
        return cast(Tensor, fourth(middle + third(middle)))


def monet(*, classes: int, dims: int, convolution: Convolution) -> UShaped:
    """Three levels of FEATURES channels, joined as in the paper's figure 2.

    Other than there, group normalisation takes the place of batch normalisation, enlarging behind a convolution that
    of transposed convolutions, and nothing is dropped out, which would make training depend on what was drawn before.
    """
    down = [_level(1, FEATURES[0], convolution)]
    for inputs, outputs in pairwise(FEATURES):
        smaller = _activated(inputs, inputs, convolution, size=4, stride=2)
        down.append(nn.Sequential(smaller, _level(inputs, outputs, convolution)))
    up = [
        Joined(narrow=_activated(inputs, skipped, convolution, size=1), body=_level(2 * skipped, skipped, convolution))
        for skipped, inputs in zip(FEATURES[-2::-1], FEATURES[:0:-1], strict=True)
    ]
    network = UShaped(down=down, up=up, last=logits(FEATURES[0], classes, dims), smallest=2 ** len(up))
    draw(network.down, network.up)
    return network


def _level(inputs: int, outputs: int, convolution: Convolution) -> nn.Module:
    return nn.Sequential(_activated(inputs, outputs, convolution), DecreasingDilation(outputs, convolution=convolution))


def _activated(
    inputs: int, outputs: int, convolution: Convolution, *, size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (size - 1) // 2
    return nn.Sequential(
        convolution(inputs, outputs, size, stride=stride, padding=padding, dilation=dilation, bias=False),
        nn.GroupNorm(outputs // CHANNELS_A_GROUP, outputs),
        nn.ELU(),
    )
