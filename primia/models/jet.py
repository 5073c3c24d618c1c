"""A front without parameters for marking structures: the local jet of an image, and where in it a pixel lies."""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import combinations_with_replacement

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALES = (0.7, 1.5, 3.0, 6.0)  # σ in pixels
HIDDEN = 16
_REACH = 4.0  # of a kernel, in σ
_LARGEST = 4.0  # standard deviations of a map beyond which it is cut off


class LocalJet(nn.Module):
    """Gaussian derivatives up to the second order at four scales (Koenderink & van Doorn 1987), with coordinates.

    They say of every pixel how bright it is and how brightness changes around it, near and far: what the filters of a
    trained network begin with, without a weight that would have to be learned, noised or sent. Every map is brought to
    mean 0 and variance 1 within its image. The coordinates from the centre of the image, in halves of its longest
    side, with their squares and products say where a structure usually lies.

    Args:
        dims: 2 for images (n, 1, x, y), 3 for volumes (n, 1, x, y, z).
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        assert dims in (2, 3), dims
        self.dims = dims
        # Orders of differentiation along each axis, (0, 0) to (0, 2).
        self.orders = sorted(
            {
                tuple(chosen.count(axis) for axis in range(dims))
                for order in range(3)
                for chosen in combinations_with_replacement(range(dims), order)
            }
        )
        for number, sigma in enumerate(SCALES):
            self.register_buffer(f"kernels_{number}", _kernels(sigma), persistent=False)

    @property
    def channels(self) -> int:
        """How many maps there are: 30 of images, 50 of volumes."""
        return 1 + len(SCALES) * len(self.orders) + self.dims + self.dims * (self.dims + 1) // 2

    def forward(self, images: Tensor) -> Tensor:
        """Images (n, 1, *spatial) of any float type to what is known of each pixel, (n, *spatial, channels).

        In float16, since there is a lot of it, and it is kept.
        """
        assert images.ndim == 2 + self.dims and images.shape[1] == 1, tuple(images.shape)
        images = images.float()
        maps = torch.cat([images, *self._derivatives(images)], dim=1)
        maps = functional.group_norm(maps, maps.shape[1]).clamp(-_LARGEST, _LARGEST)
        places = _places(images.shape[2:]).to(images.device).expand(len(images), *[-1] * (1 + self.dims))
        return torch.cat([maps, places], dim=1).half().movedim(1, -1).contiguous()

    def _derivatives(self, images: Tensor) -> Iterator[Tensor]:
        """One map for each scale and order; what two orders have in common along the first axes is computed once."""
        for number in range(len(SCALES)):
            kernels = self.get_buffer(f"kernels_{number}")
            known: dict[tuple[int, ...], Tensor] = {(): images}
            for orders in self.orders:
                for axis in range(self.dims):
                    so_far = orders[: axis + 1]
                    if so_far not in known:
                        known[so_far] = _along(known[orders[:axis]], kernels[orders[axis]], axis=2 + axis)
                yield known[orders]


class ChannelsFirst(nn.Module):
    """Moves the last axis to where losses and predictions look for classes."""

    def forward(self, values: Tensor) -> Tensor:
        """(n, *spatial, classes) to (n, classes, *spatial)."""
        return values.movedim(-1, 1)


def jet_head(channels: int, *, classes: int) -> nn.Sequential:
    """The same small network at every pixel: channels -> 16 -> classes; 867 parameters of volumes with three classes.

    The last layer starts at zero, where every class is equally likely.
    """
    last = nn.Linear(HIDDEN, classes)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    layers = {"hidden": nn.Linear(channels, HIDDEN), "activation": nn.ReLU(), "last": last, "order": ChannelsFirst()}
    return nn.Sequential(OrderedDict(layers))


def _kernels(sigma: float) -> Tensor:
    """Gaussian of `sigma` and its first two derivatives times `sigma` and its square, (3, taps) float32."""
    reach = round(_REACH * sigma)
    place = torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma
    bell = torch.exp(-(place**2) / 2)
    bell = bell / bell.sum()
    slope, bend = place * bell, (place**2 - 1) * bell
    # Sampled kernels: a constant has no slope, and neither constant nor ramp a bend.
    return torch.stack([bell, slope - slope.mean(), bend - bend.mean()]).float()


def _along(maps: Tensor, kernel: Tensor, *, axis: int) -> Tensor:
    """Convolve maps (n, 1, ...) with a kernel along one axis; the border repeats.

    As a product with a small matrix, which is several times as fast as a convolution of one axis.
    """
    before, side, after = maps.shape[:axis].numel(), maps.shape[axis], maps.shape[axis + 1 :].numel()
    matrix = _matrix(kernel, side)
    if after == 1:  # as one product instead of many with a single column
        return (maps.reshape(before, side) @ matrix.T).view(maps.shape)
    return (matrix @ maps.reshape(before, side, after)).view(maps.shape)


def _matrix(kernel: Tensor, side: int) -> Tensor:
    """What convolving a line of `side` pixels with `kernel` does, (side, side)."""
    reach = len(kernel) // 2
    padded = functional.pad(torch.eye(side, device=kernel.device)[:, None], (reach, reach), mode="replicate")
    return functional.conv1d(padded, kernel.view(1, 1, -1))[:, 0].T


def _places(shape: torch.Size) -> Tensor:
    """Coordinates of every pixel, their squares and products: (1, d + d (d + 1) / 2, *shape) float32."""
    half = max(shape) / 2
    axes = [(torch.arange(side, dtype=torch.float32) - (side - 1) / 2) / half for side in shape]
    grids = torch.meshgrid(*axes, indexing="ij")
    products = [one * other for one, other in combinations_with_replacement(grids, 2)]
    return torch.stack([*grids, *products])[None]
