"""Networks that give every pixel logits of its own: an encoder, and a decoder that is handed each of its levels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from primia.models.blocks import Convolution, activated, residual_stages

FEATURES = (16, 32, 64, 128)  # channels of the U-Net's levels, each half as large as the one before
CHANNELS_A_GROUP = 8


class Joined(nn.Module):
    """One level up: what comes from below is enlarged, joined with what the encoder knew at that size, and convolved.

    Enlarging repeats pixels and has no parameters: the convolutions around it learn what a transposed one would,
    without its checkerboards (Odena et al. 2016).
    """

    def __init__(self, *, narrow: nn.Module, body: nn.Module) -> None:
        super().__init__()
        self.narrow, self.body = narrow, body
        self.enlarge = nn.Upsample(scale_factor=2)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        """Maps (n, c, s / 2, ...) and what was skipped, (n, c', s, ...), to (n, outputs, s, ...)."""
        answer: Tensor = self.body(torch.cat([skip, self.enlarge(self.narrow(maps))], dim=1))
        return answer


class UShaped(nn.Module):
    """A U-Net (Ronneberger et al. 2015): `up` is handed the levels of `down`, the smallest first; `last` gives logits.

    Every level but the lowest has its own `Joined`, so that none can be left out unnoticed.

    Attributes:
        smallest: side of an image that is one pixel at the lowest level. Sides are filled up to multiples of it by
            repeating the last pixel, and the answer is cut back.
    """

    def __init__(self, *, down: Sequence[nn.Module], up: Sequence[Joined], last: nn.Module, smallest: int) -> None:
        super().__init__()
        assert len(up) == len(down) - 1
        self.down, self.up, self.last = nn.ModuleList(down), nn.ModuleList(up), last
        self.smallest = smallest

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes, *spatial) of images (n, 1, *spatial)."""
        levels, maps = list[Tensor](), self._filled_up(images)
        for stage in self.down:
            maps = stage(maps)
            levels.append(maps)
        maps = levels.pop()
        for stage in self.up:
            maps = stage(maps, levels.pop())
        answer: Tensor = self.last(maps)
        for axis, side in enumerate(images.shape[2:], start=2):
            answer = answer.narrow(axis, 0, side)
        return answer

    def _filled_up(self, images: Tensor) -> Tensor:
        for axis, side in enumerate(images.shape[2:], start=2):
            if missing := -side % self.smallest:
                rim = images.narrow(axis, side - 1, 1)
                images = torch.cat([images, *[rim] * missing], dim=axis)
        return images


def unet(*, classes: int, dims: int, convolution: Convolution) -> UShaped:
    """Two convolutions at each of four levels of FEATURES channels.

    Own code, since MONAI's U-Nets cannot standardise weights, learn biases that the normalisation takes out again
    (under differential privacy these would be noise and nothing else), or have a fifth level.
    """
    down: list[nn.Module] = [_double(1, FEATURES[0], convolution)]
    for inputs, outputs in pairwise(FEATURES):
        down.append(nn.Sequential(_pooling(dims, 2), _double(inputs, outputs, convolution)))
    up = [
        _joined(inputs, skipped, skipped, convolution)
        for skipped, inputs in zip(FEATURES[-2::-1], FEATURES[:0:-1], strict=True)
    ]
    network = UShaped(down=down, up=up, last=logits(FEATURES[0], classes, dims), smallest=2 ** len(up))
    draw(network.down, network.up)
    return network


def unet_resnet18(*, classes: int, dims: int, convolution: Convolution) -> UShaped:
    """The encoder of ResNet-18 in place of the U-Net's own, as in Ziller et al. 2021; it starts at half the size."""
    assert dims == 2, dims
    stem = nn.Sequential(*activated(1, 64, 7, convolution=convolution, stride=2))
    first, *others = residual_stages(convolution)
    down = [stem, nn.Sequential(nn.MaxPool2d(3, stride=2, padding=1), first), *others]
    up = [
        _joined(inputs, skipped, outputs, convolution)
        for inputs, skipped, outputs in ((512, 256, 256), (256, 128, 128), (128, 64, 64), (64, 64, 32))
    ]
    # At the full size the encoder knows nothing but the image.
    up[-1].body = nn.Sequential(up[-1].body, nn.Upsample(scale_factor=2), *_activated(32, 16, convolution))
    network = UShaped(down=down, up=up, last=logits(16, classes, dims), smallest=2 ** (1 + len(up)))
    draw(network.down, network.up)
    return network


def logits(inputs: int, classes: int, dims: int) -> nn.Module:
    """A logit per class and pixel; never standardised, since its scale is how sure the network is."""
    return nn.Conv2d(inputs, classes, 1) if dims == 2 else nn.Conv3d(inputs, classes, 1)


def draw(*parts: nn.Module) -> None:
    """Draw the weights of the convolutions in `parts` as He et al. 2015 do."""
    for module in nn.ModuleList(parts).modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _joined(inputs: int, skipped: int, outputs: int, convolution: Convolution) -> Joined:
    return Joined(
        narrow=convolution(inputs, outputs, 1, bias=False), body=_double(outputs + skipped, outputs, convolution)
    )


def _double(inputs: int, outputs: int, convolution: Convolution) -> nn.Sequential:
    return nn.Sequential(*_activated(inputs, outputs, convolution), *_activated(outputs, outputs, convolution))


def _activated(inputs: int, outputs: int, convolution: Convolution) -> list[nn.Module]:
    return activated(inputs, outputs, 3, convolution=convolution, groups=outputs // CHANNELS_A_GROUP)


def _pooling(dims: int, size: int) -> nn.Module:
    return nn.MaxPool2d(size) if dims == 2 else nn.MaxPool3d(size)
