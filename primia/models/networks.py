"""The networks a federation can train: a front without parameters, and a head that learns."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.consistency import SEGMENTING
from primia.errors import ConfigError
from primia.models.blocks import Convolution, PlainResidual, activated, residual_stages
from primia.models.jet import LocalJet, jet_head
from primia.models.monet import monet
from primia.models.scattering import CHANNELS, STRIDE, Scattering
from primia.models.segmenting import UShaped, unet, unet_resnet18
from primia.models.standardised import StandardisedConv2d, StandardisedConv3d

# How these networks are built, and what the side of their images must be a multiple of.
_SEGMENTING: dict[str, Callable[..., UShaped]] = {"unet": unet, "unet_resnet18": unet_resnet18, "monet": monet}
_PIXELS_AT_A_TIME = 2**21
_OF_VOLUMES = ("jet", "unet", "monet")


class Network(nn.Module):
    """A fixed front and a learned head, from standardised images to one logit per class, of images or of every pixel.

    The front has no parameters (it may be the identity), so what it computes can be kept, in half precision if the
    front says so, and only the head travels, is clipped, noised, summed and released. The head takes float32.
    """

    def __init__(self, *, front: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.front = front
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes), or (n, classes, *spatial), of standardised float32 images (n, 1, *spatial)."""
        return cast(Tensor, self.head(self.front(images).float()))


def build_network(
    architecture: str,
    *,
    classes: int,
    pixels: int,
    seed: int,
    weight_standardisation: bool = False,
    depth: int | None = None,
) -> Network:
    """Build a network; equal arguments give equal bytes, whatever was drawn before.

    All networks use group normalisation and change no tensor in place, as per-sample gradients require.

    Args:
        architecture: `scattering`, `convnet` (46,739 parameters with three classes), `resnet9` (2.4 million) or
            `resnet18` (11 million) classify; `monet` (310,723, of volumes 943,843), `unet` (450,115, of volumes
            1,325,923), `unet_resnet18` (13.7 million, only of images) and `jet` (547, of volumes 867) segment.
        classes: number of classes, at least 2.
        pixels: side of the square input images.
        seed: of the initial weights.
        weight_standardisation: standardise the filters of all convolutions but a last one that gives logits; not with
            `scattering`, which learns none.
        depth: of input volumes (pixels, pixels, depth); None where the input is images.

    Raises:
        ConfigError: the architecture is unknown or cannot take images of this size.
    """
    assert classes >= 2 and not (weight_standardisation and architecture == "scattering")
    convolution: Convolution = nn.Conv2d if depth is None else nn.Conv3d
    if weight_standardisation:
        convolution = StandardisedConv2d if depth is None else StandardisedConv3d
    classifying: dict[str, Callable[..., Network]] = {
        "scattering": _scattering,
        "convnet": _convnet,
        "resnet9": _resnet9,
        "resnet18": _resnet18,
    }
    if architecture not in classifying and architecture not in SEGMENTING:
        every = ", ".join([*classifying, *sorted(SEGMENTING)])
        raise ConfigError(f"model.architecture is {architecture!r}, but only {every} exist; choose one.")
    if depth is not None and architecture not in _OF_VOLUMES:
        raise ConfigError(
            f"model.architecture is {architecture}, which takes images, but preprocess.volume.depth is {depth}; "
            f"set the depth to null, or choose {' or '.join(_OF_VOLUMES)}."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture in SEGMENTING:
            return _segmenting(architecture, classes=classes, pixels=pixels, depth=depth, convolution=convolution)
        return classifying[architecture](classes=classes, pixels=pixels, convolution=convolution)


def at_a_time(images: Tensor, most: int) -> int:
    """How many of `images` go through a network at a time, so that memory stays bounded: at most `most`."""
    return max(1, min(most, _PIXELS_AT_A_TIME // images[0].numel())) if len(images) else most


def _segmenting(
    architecture: str, *, classes: int, pixels: int, depth: int | None, convolution: Convolution
) -> Network:
    dims = 2 if depth is None else 3
    if architecture == "jet":
        front = LocalJet(dims)
        return Network(front=front, head=jet_head(front.channels, classes=classes))
    head = _SEGMENTING[architecture](classes=classes, dims=dims, convolution=convolution)
    for key, side in (("preprocess.pixels", pixels), ("preprocess.volume.depth", depth)):
        if side is not None and side < head.smallest:
            raise ConfigError(
                f"{key} is {side}, but {architecture} halves its images until each pixel stands for {head.smallest}; "
                "choose at least that, or another architecture."
            )
    return Network(front=nn.Identity(), head=head)


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


def _scattering(*, classes: int, pixels: int, convolution: Convolution) -> Network:
    del convolution  # none is learned
    front = nn.Sequential(Scattering(pixels), LogNormalised())
    linear = nn.Linear(CHANNELS * (pixels // STRIDE) ** 2, classes)
    # Zero is the best start for a convex problem, and the first step then tells nothing about the seed.
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return Network(front=front, head=nn.Sequential(nn.Flatten(), linear))


def _convnet(*, classes: int, pixels: int, convolution: Convolution) -> Network:
    _require(pixels, at_least=16, architecture="convnet")
    blocks: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 48), (48, 64)):
        blocks += [
            convolution(inputs, outputs, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(outputs // 8, outputs),
            nn.ReLU(),
        ]
    head = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
    return Network(front=nn.Identity(), head=head)


def _resnet18(*, classes: int, pixels: int, convolution: Convolution) -> Network:
    _require(pixels, at_least=32, architecture="resnet18")
    blocks = [block for stage in residual_stages(convolution) for block in stage]
    return _residual(blocks, features=512, classes=classes, pixels=pixels, convolution=convolution)


def _resnet9(*, classes: int, pixels: int, convolution: Convolution) -> Network:
    """The nine layers of Klause et al. 2022, the first of them as in ResNet-18: X-rays are larger than CIFAR images."""
    _require(pixels, at_least=32, architecture="resnet9")
    layers: list[nn.Module] = []
    for inputs, outputs, residual in ((64, 128, True), (128, 256, False), (256, 256, True)):
        layers += [*activated(inputs, outputs, 3, convolution=convolution), nn.MaxPool2d(2)]
        if residual:
            layers.append(PlainResidual(outputs, convolution=convolution))
    return _residual(layers, features=256, classes=classes, pixels=pixels, convolution=convolution)


def _residual(
    layers: list[nn.Module], *, features: int, classes: int, pixels: int, convolution: Convolution
) -> Network:
    """A network of `layers` between the stem of He et al. 2016 and a linear layer on `features` means."""
    stem = activated(1, 64, 7, convolution=convolution, stride=2)
    if pixels >= 64:  # smaller images keep their detail
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    head = nn.Sequential(*stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return Network(front=nn.Identity(), head=head)


def _require(pixels: int, *, at_least: int, architecture: str) -> None:
    if pixels < at_least:
        raise ConfigError(
            f"preprocess.pixels is {pixels}, but {architecture} needs at least {at_least}; "
            "choose larger images or another architecture."
        )
