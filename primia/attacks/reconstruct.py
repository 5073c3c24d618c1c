"""Finding images whose gradient is an observed one (Geiping et al. 2020), from coarse to fine."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from primia.training.objective import row_losses

# Images (n, 1, *shape) in [0, 1] to their gradients (n, weights), differentiable.
GradientOf = Callable[[Tensor], Tensor]

RATE = 0.015  # of a step of every scale, in units of the image's range
_RATE_OF_BELIEFS = 0.1  # in logits
_COARSEST = 8  # pixels
_SHORTEST = 1e-8  # norm of a gradient; one of zeros points nowhere


def reconstruct(
    observed: Tensor,
    gradient_of: GradientOf,
    *,
    start: Tensor,
    steps: int,
    variation: Tensor,
    beliefs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Minimise 1 − cosine(gradient of the image, observed one) + total variation, all images at once.

    Adam on the sign of the gradient, whose rate drops after 3/8, 5/8 and 7/8 of the steps, as Geiping et al.; but over
    a sum of images of 8, 16, 32, … pixels: the coarse ones move in a few steps what single pixels need hundreds for.

    Args:
        observed: gradients, (n, weights); everything is on the device of `start`.
        gradient_of: the attacker's copy of what makes gradients; row i knows what is known of image i.
        start: images in [0, 1], (n, 1, *shape) with two or three axes.
        steps: of Adam.
        variation: weight of the total variation, (n,).
        beliefs: something else that `gradient_of` depends on and that is found jointly, such as the logits of a mask.

    Returns:
        Images in [0, 1], like `start`, and their matching loss, (n,), without the variation.
    """
    shape, direction = start.shape[2:], functional.normalize(observed.double(), eps=_SHORTEST)
    scales = [
        torch.zeros(len(start), 1, *sides, dtype=start.dtype, device=start.device, requires_grad=True)
        for sides in zip(*_scales_along(shape), strict=True)
    ]
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    groups = [{"params": scales, "lr": RATE}]
    if beliefs is not None:
        groups.append({"params": [beliefs], "lr": _RATE_OF_BELIEFS})
    adam = torch.optim.Adam(groups, foreach=False)
    unknown = [*scales, *([] if beliefs is None else [beliefs])]
    drops = [steps * eighths // 8 for eighths in (3, 5, 7)]
    falling = torch.optim.lr_scheduler.MultiStepLR(adam, drops, gamma=0.1)

    def image() -> Tensor:
        finer = [functional.interpolate(each, size=shape, mode=mode, align_corners=False) for each in scales]
        return start + torch.stack(finer).sum(dim=0)

    for _ in range(steps):
        found = image()
        loss = _mismatch(gradient_of(found), direction) + variation * total_variation(found)
        for each, slope in zip(unknown, torch.autograd.grad(loss.sum(), unknown), strict=True):
            each.grad = slope.sign()
        adam.step()
        falling.step()
        with torch.no_grad():
            # Into the range, and by the finest scale alone: a clamp within the graph would stop pixels at its ends.
            found = image()
            scales[-1] += found.clamp(0, 1) - found
    found = image().detach().clamp(0, 1)
    return found, _mismatch(gradient_of(found), direction).detach()


def scales_of(pixels: int) -> Sequence[int]:
    """Sides of the images that are added up, the finest last."""
    sizes = [pixels]
    while sizes[0] // 2 >= _COARSEST:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def _scales_along(shape: Sequence[int]) -> list[list[int]]:
    """Sides of the images that are added up, for each axis; short axes keep their length in the finer scales."""
    finest_first = [list(reversed(scales_of(side))) for side in shape]
    number = max(len(sides) for sides in finest_first)
    return [list(reversed(sides + sides[-1:] * (number - len(sides)))) for sides in finest_first]


def total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over the directions of images (n, 1, *shape); (n,)."""
    along = [images.diff(dim=axis).abs().flatten(1).mean(dim=1) for axis in range(2, images.ndim)]
    return torch.stack(along).sum(dim=0)


def gradients_of(head: nn.Module, inputs: Tensor, targets: Tensor, *, loss: str = "cross_entropy") -> Tensor:
    """Gradient of each sample's loss by all weights, (n, weights), in the order of their names.

    Args:
        head: treats each sample on its own.
        inputs: (n, ...) what the head sees; a graph may hang on it.
        targets: (n, ...) int64 classes, or probabilities (n, classes, ...) float32.
        loss: see `primia.training.objective.row_losses`.
    """
    weights = {name: weight.detach() for name, weight in head.named_parameters()}

    def loss_of(weights: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
        return row_losses(functional_call(head, weights, (one[None],)), target[None], loss)[0]

    each = vmap(grad(loss_of), in_dims=(None, 0, 0))(weights, inputs, targets)
    return torch.cat([each[name].flatten(1) for name in sorted(each)], dim=1)


def _mismatch(gradients: Tensor, direction: Tensor) -> Tensor:
    """1 − cosine of gradients (n, weights) to unit vectors in float64, (n,); torch's own goes over both more often."""
    gradients = gradients.double()
    along = (gradients[:, None] @ direction[:, :, None]).flatten()
    cosine: Tensor = along / torch.linalg.vector_norm(gradients, dim=1).clamp_min(_SHORTEST)
    return 1 - cosine
