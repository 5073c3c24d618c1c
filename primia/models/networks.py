"""The networks a federation can train: a front without parameters, and a head that learns."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.errors import ConfigError
from primia.models.scattering import CHANNELS, STRIDE, Scattering


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


def build_network(architecture: str, *, classes: int, pixels: int, seed: int) -> Classifier:
    """Build a network; equal arguments give equal bytes, whatever was drawn before.

    All networks use group normalisation and change no tensor in place, as per-sample gradients require.

    Args:
        architecture: `scattering`, `convnet` (46,739 parameters with three classes) or `resnet18` (11 million).
        classes: number of classes, at least 2.
        pixels: side of the square input images.
        seed: of the initial weights.

    Raises:
        ConfigError: the architecture is unknown or cannot take images of this size.
    """
    assert classes >= 2
    builders: dict[str, Callable[..., Classifier]] = {
        "scattering": _scattering,
        "convnet": _convnet,
        "resnet18": _resnet18,
    }
    if architecture not in builders:
        raise ConfigError(f"model.architecture is {architecture!r}, but only {', '.join(builders)} exist; choose one.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builders[architecture](classes=classes, pixels=pixels)


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


def _scattering(*, classes: int, pixels: int) -> Classifier:
    front = nn.Sequential(Scattering(pixels), LogNormalised())
    linear = nn.Linear(CHANNELS * (pixels // STRIDE) ** 2, classes)
    # Zero is the best start for a convex problem, and the first step then tells nothing about the seed.
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return Classifier(front=front, head=nn.Sequential(nn.Flatten(), linear))


def _convnet(*, classes: int, pixels: int) -> Classifier:
    _require(pixels, at_least=16, architecture="convnet")
    blocks: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 48), (48, 64)):
        blocks += [
            nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(outputs // 8, outputs),
            nn.ReLU(),
        ]
    head = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return Classifier(front=nn.Identity(), head=head)


class ResidualBlock(nn.Module):
    """Basic block of He et al. 2016 with group normalisation; the sum is a new tensor, which Opacus' hooks need."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(32, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(32, outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.GroupNorm(32, outputs)
            )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, inputs, s, s) to (n, outputs, s / stride, s / stride)."""
        return functional.relu(self.body(maps) + self.shortcut(maps))


def _resnet18(*, classes: int, pixels: int) -> Classifier:
    _require(pixels, at_least=32, architecture="resnet18")
    stem: list[nn.Module] = [nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False), nn.GroupNorm(32, 64), nn.ReLU()]
    if pixels >= 64:  # smaller images keep their detail
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    blocks: list[nn.Module] = []
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        blocks += [ResidualBlock(inputs, outputs, stride=stride), ResidualBlock(outputs, outputs, stride=1)]
    head = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
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
