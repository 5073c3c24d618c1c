"""What networks are built of: convolutions with group normalisation, and residuals that are added out of place."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

# Makes a convolution of as many axes as the images have: nn.Conv2d or nn.Conv3d, or a standardised one.
Convolution = Callable[..., nn.Module]


def activated(
    inputs: int,
    outputs: int,
    size: int,
    *,
    convolution: Convolution,
    stride: int = 1,
    groups: int = 32,
) -> list[nn.Module]:
    """A convolution of `size` along every axis, group normalisation and ReLU: (n, inputs, ...) to (n, outputs, ...)."""
    return [
        convolution(inputs, outputs, size, stride=stride, padding=size // 2, bias=False),
        nn.GroupNorm(groups, outputs),
        nn.ReLU(),
    ]


class ResidualBlock(nn.Module):
    """Basic block of He et al. 2016 with group normalisation; the sum is a new tensor, which Opacus' hooks need."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, convolution: Convolution = nn.Conv2d) -> None:
        super().__init__()
        self.body = nn.Sequential(
            convolution(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(32, outputs),
            nn.ReLU(),
            convolution(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(32, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                convolution(inputs, outputs, 1, stride=stride, bias=False), nn.GroupNorm(32, outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, inputs, s, s) to (n, outputs, s / stride, s / stride)."""
        return functional.relu(self.body(maps) + self.shortcut(maps))


class PlainResidual(nn.Module):
    """Two convolutions and, after their activations, the input added out of place (the block of ResNet-9)."""

    def __init__(self, channels: int, *, convolution: Convolution) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *activated(channels, channels, 3, convolution=convolution),
            *activated(channels, channels, 3, convolution=convolution),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, channels, s, s) to the same shape."""
        return cast(Tensor, self.body(maps)) + maps


def residual_stages(convolution: Convolution) -> list[nn.Sequential]:
    """The four stages of ResNet-18, each two blocks: 64 channels in, then 64, 128, 256 and 512, all but one halving."""
    return [
        nn.Sequential(
            ResidualBlock(inputs, outputs, stride=stride, convolution=convolution),
            ResidualBlock(outputs, outputs, stride=1, convolution=convolution),
        )
        for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    ]
