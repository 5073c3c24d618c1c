"""Which network answers on encrypted images: the released model itself, or a student whose size suits the engine."""

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from primia.errors import ConfigError
from primia.models.polynomial import PolynomialNetwork, Quadratic, dense_network
from primia.models.released import ReleasedModel
from primia.models.scattering import CHANNELS, STRIDE

HIDDEN = 64
PATCH = 8
LARGEST_DENSE = 64  # pixels: 64² values fill one ciphertext of 4096 slots
LARGEST = 256  # pixels: 32² patches in a quarter of a ciphertext, which their convolution still fits


def check_student_pixels(pixels: int) -> None:
    """Refuse a size that no student takes.

    Raises:
        ConfigError: `pixels` is below 8, above 256, or above 64 and no multiple of 8.
    """
    if not (PATCH <= pixels <= LARGEST_DENSE or (pixels <= LARGEST and pixels % PATCH == 0)):
        raise ConfigError(
            f"encryption.pixels is {pixels}, but an encrypted network takes {PATCH} to {LARGEST_DENSE} pixels, or up "
            f"to {LARGEST} in steps of {PATCH}; choose {min(max(round(pixels / PATCH), 1) * PATCH, LARGEST)}."
        )


def build_student(*, pixels: int, classes: int, seed: int) -> PolynomialNetwork:
    """A network of three linear maps and two quadratics, which N = 8192 can hold; equal arguments give equal bytes.

    Up to 64 pixels: pixels² -> 64 -> x² + x -> 64 -> x² + x -> classes. Larger: a convolution over patches of 8 x 8
    pixels without overlap to 32 channels (16 above 128 pixels) -> x² + x -> 64 -> x² + x -> classes. A batch-norm
    stands before each quadratic.

    Raises:
        ConfigError: the size does not fit (see `check_student_pixels`).
    """
    check_student_pixels(pixels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if pixels <= LARGEST_DENSE:
            return dense_network(pixels, HIDDEN, classes)
        channels = 32 if pixels <= 128 else 16
        body = nn.Sequential(
            nn.Conv2d(1, channels, PATCH, stride=PATCH),
            nn.BatchNorm2d(channels),
            Quadratic(),
            nn.Flatten(),
            nn.Linear(channels * (pixels // PATCH) ** 2, HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            Quadratic(),
            nn.Linear(HIDDEN, classes),
        )
    return PolynomialNetwork(body, shape=(1, pixels, pixels), patch=PATCH)


def encrypted_form(model: ReleasedModel) -> PolynomialNetwork | None:
    """The released model as a network the engine can evaluate, or None where only a student can take its place.

    The scattering model is a linear map behind a front without learned weights, which the client computes: it needs no
    student, loses nothing, and what its training promised about privacy holds on.
    """
    if model.architecture != "scattering":
        return None
    head = cast(nn.Sequential, deepcopy(model.network.head))
    side = model.pixels // STRIDE
    network = PolynomialNetwork(head, shape=(CHANNELS, side, side), front="scattering")
    network.mean.fill_(model.mean)
    network.std.fill_(model.std)
    return network.eval()


@torch.no_grad()
def fold_normalisation(network: PolynomialNetwork) -> PolynomialNetwork:
    """An equal network, in evaluation, without batch-norm: each is folded into the linear layer before it.

    All that is learned are then weights that can be summed over hospitals. The weights are folded in float64.

    Args:
        network: each batch-norm follows a Linear or a Conv2d.

    Returns:
        A new network with the statistics, the front and the recorded ranges of `network`, in eval mode.
    """
    layers: list[nn.Module] = []
    for layer in network.body:
        if not isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layers.append(deepcopy(layer))
            continue
        before = layers[-1]
        assert isinstance(before, nn.Linear | nn.Conv2d), type(before).__name__
        factor = 1 / (cast(Tensor, layer.running_var).double() + layer.eps).sqrt()
        shift = -cast(Tensor, layer.running_mean).double()
        if before.bias is not None:
            shift = shift + before.bias.double()
        if layer.affine:
            factor = factor * layer.weight.double()
        offset = factor * shift + (layer.bias.double() if layer.affine else 0.0)
        wide = (-1, *[1] * (before.weight.dim() - 1))
        before.weight = nn.Parameter((before.weight.double() * factor.view(wide)).float())
        before.bias = nn.Parameter(offset.float())
    folded = PolynomialNetwork(nn.Sequential(*layers), shape=network.shape, front=network.front, patch=network.patch)
    for name, buffer in network.named_buffers(recurse=False):
        folded.get_buffer(name).copy_(buffer)
    return folded.eval()
