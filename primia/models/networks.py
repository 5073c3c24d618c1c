"""The networks a federation can train: a front without parameters, and a head that learns."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.errors import ConfigError
from primia.models.scattering import CHANNELS, STRIDE, Scattering
from primia.models.standardised import StandardisedConv2d

Convolution = Callable[..., nn.Conv2d]


class Classifier(nn.Module):
    """A fixed front and a learned head, from standardised images to one logit per class.

    The front has no parameters (it may be the identity), so what it computes can be kept, and only the head travels,
    is clipped, noised, summed and released.
    """

    def __init__(self, *, front: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.front = front
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of standardised float32 images (n, 1, p, p)."""
        return cast(Tensor, self.head(self.front(images)))


def build_network(
    architecture: str, *, classes: int, pixels: int, seed: int, weight_standardisation: bool = False
) -> Classifier:
    """Build a network; equal arguments give equal bytes, whatever was drawn before.

    All networks use group normalisation and change no tensor in place, as per-sample gradients require.

    Args:
        architecture: `scattering`, `convnet` (46,739 parameters with three classes), `resnet9` (2.4 million) or
            `resnet18` (11 million).
        classes: number of classes, at least 2.
        pixels: side of the square input images.
        seed: of the initial weights.
        weight_standardisation: standardise the filters of all convolutions; not with `scattering`, which learns none.

    Raises:
        ConfigError: the architecture is unknown or cannot take images of this size.
    """
    assert classes >= 2 and not (weight_standardisation and architecture == "scattering")
    builders: dict[str, Callable[..., Classifier]] = {
        "scattering": _scattering,
        "convnet": _convnet,
        "resnet9": _resnet9,
        "resnet18": _resnet18,
    }
    if architecture not in builders:
        raise ConfigError(f"model.architecture is {architecture!r}, but only {', '.join(builders)} exist; choose one.")
    convolution = StandardisedConv2d if weight_standardisation else nn.Conv2d
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builders[architecture](classes=classes, pixels=pixels, convolution=convolution)


class LogNormalised(nn.Module):
    """Logarithm of the scattering moduli, each channel then brought to mean 0 and variance 1 within its image.

    The logarithm makes a change of exposure an offset, which the normalisation removes (after Oyallon et al. 2018 and
    Tramèr & Boneh 2021). Channel 0, the local mean, may be negative and keeps its values up to the normalisation.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, 217, s, s) float32 to the same shape."""
        # 0.01 is a third of the median modulus of standardised X-rays in the first order.
        maps = torch.cat([maps[:, :1], torch.log(0.01 + maps[:, 1:])], dim=1)
        return functional.group_norm(maps, CHANNELS)


def _scattering(*, classes: int, pixels: int, convolution: Convolution) -> Classifier:
    del convolution  # none is learned
    front = nn.Sequential(Scattering(pixels), LogNormalised())
    linear = nn.Linear(CHANNELS * (pixels // STRIDE) ** 2, classes)
    # Zero is the best start for a convex problem, and the first step then tells nothing about the seed.
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return Classifier(front=front, head=nn.Sequential(nn.Flatten(), linear))


def _convnet(*, classes: int, pixels: int, convolution: Convolution) -> Classifier:
    _require(pixels, at_least=16, architecture="convnet")
    blocks: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 48), (48, 64)):
        blocks += [
            convolution(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(outputs // 8, outputs),
            nn.ReLU(),
        ]
    head = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return Classifier(front=nn.Identity(), head=head)


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
            *_activated(channels, channels, 3, convolution=convolution),
            *_activated(channels, channels, 3, convolution=convolution),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, channels, s, s) to the same shape."""
        return cast(Tensor, self.body(maps)) + maps


def _resnet18(*, classes: int, pixels: int, convolution: Convolution) -> Classifier:
    _require(pixels, at_least=32, architecture="resnet18")
    blocks: list[nn.Module] = []
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        blocks += [
            ResidualBlock(inputs, outputs, stride=stride, convolution=convolution),
            ResidualBlock(outputs, outputs, stride=1, convolution=convolution),
        ]
    return _residual(blocks, features=512, classes=classes, pixels=pixels, convolution=convolution)


def _resnet9(*, classes: int, pixels: int, convolution: Convolution) -> Classifier:
    """The nine layers of Klause et al. 2022, the first of them as in ResNet-18: X-rays are larger than CIFAR images."""
    _require(pixels, at_least=32, architecture="resnet9")
    layers: list[nn.Module] = []
    for inputs, outputs, residual in ((64, 128, True), (128, 256, False), (256, 256, True)):
        layers += [*_activated(inputs, outputs, 3, convolution=convolution), nn.MaxPool2d(2)]
        if residual:
            layers.append(PlainResidual(outputs, convolution=convolution))
    return _residual(layers, features=256, classes=classes, pixels=pixels, convolution=convolution)


def _activated(inputs: int, outputs: int, size: int, *, convolution: Convolution, stride: int = 1) -> list[nn.Module]:
    return [
        convolution(inputs, outputs, size, stride=stride, padding=size // 2, bias=False),
        nn.GroupNorm(32, outputs),
        nn.ReLU(),
    ]


def _residual(
    layers: list[nn.Module], *, features: int, classes: int, pixels: int, convolution: Convolution
) -> Classifier:
    """A network of `layers` between the stem of He et al. 2016 and a linear layer on `features` means."""
    stem = _activated(1, 64, 7, convolution=convolution, stride=2)
    if pixels >= 64:  # smaller images keep their detail
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    head = nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Classifier(front=nn.Identity(), head=head)


def _require(pixels: int, *, at_least: int, architecture: str) -> None:
    if pixels < at_least:
        raise ConfigError(
            f"preprocess.pixels is {pixels}, but {architecture} needs at least {at_least}; "
            "choose larger images or another architecture."
        )
