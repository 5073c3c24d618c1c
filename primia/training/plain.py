"""Training without differential privacy: stochastic gradient descent over a site's images."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.sgd import sgd

from primia.training.augment import Change, augmentation, augmentation_with_masks, changed
from primia.training.mixup import mix
from primia.training.objective import row_losses


def train_plain(
    head: nn.Module,
    *,
    inputs: Tensor,
    labels: Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    augment: bool,
    precision: str,
    seed: int,
    steps: int | None = None,
    proximal: float = 0.0,
    class_weights: Sequence[float] | None = None,
    mixup: float = 0.0,
    loss: str = "cross_entropy",
) -> float:
    """Train `head` in place with momentum 0.9 at a constant learning rate.

    Equal arguments and thread counts give equal weights, bit for bit.

    Args:
        head: the learned part of a `Network`; stays in float32.
        inputs: what the front makes of the standardised images, (images, ...); images themselves are (images, 1, p, p).
        labels: (images,), or masks (images, *spatial), of integers.
        epochs: passes over all images, each in a new order.
        batch_size: images per step; the last batch of a pass may be smaller.
        learning_rate: of SGD.
        weight_decay: of SGD, on every weight.
        augment: change the pose and exposure of images; features of a fixed front are taken as they are.
        precision: `float32`, or `bfloat16` for mixed precision.
        seed: of the order, the augmentation and the blends, below 2^32.
        steps: so many batches instead of `epochs`, with as many passes as that takes, the last one perhaps cut short.
        proximal: FedProx's μ: the loss gains μ/2·‖w − w₀‖², w₀ the weights at the start (Li et al. 2020, equation 2).
        class_weights: one per class, as in `torch.nn.functional.cross_entropy`; not with masks.
        mixup: parameter of the Beta distribution for MixUp, 0: off; not with masks.
        loss: of `primia.training.objective.LOSSES`.

    Returns:
        The mean loss that was trained on, without the proximal term, over all images of all batches, the cross-entropy
        in nats, each before the step that used it.
    """
    assert len(inputs) == len(labels) > 0 and epochs >= 1 and precision in ("float32", "bfloat16")
    masks, mixed = labels.dim() > 1, precision == "bfloat16"
    assert not (masks and (mixup or class_weights is not None))
    change: Change | None = None
    if augment and masks:
        change = augmentation_with_masks(sides=inputs.shape[2:], seed=seed)
    elif augment and inputs.dim() == 4 and inputs.shape[1] == 1:
        change = augmentation(pixels=inputs.shape[-1], seed=seed)
    blends = np.random.default_rng(seed)
    balance = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
    head.train()
    weights: list[Tensor] = list(head.parameters())
    start = [weight.detach().clone() for weight in weights] if proximal else []
    momenta: list[Tensor | None] = [None] * len(weights)
    total, seen = 0.0, 0
    taken = steps or epochs * math.ceil(len(inputs) / batch_size)
    for chosen in islice(batches(len(inputs), batch_size=batch_size, seed=seed), taken):
        batch, truth = changed(change, inputs[chosen].float(), labels[chosen].long())
        if mixup:
            batch, partner, share = mix(batch, alpha=mixup, stream=blends)
        # Not with channels last: PyTorch's group normalisation in bfloat16 loses there more than convolutions gain.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            logits = head(batch).float()
        if loss == "cross_entropy":
            mean = functional.cross_entropy(logits, truth, weight=balance)
        else:
            mean = row_losses(logits, truth, loss).mean()
        if mixup:
            mean = share * mean + (1 - share) * functional.cross_entropy(logits, truth[partner], weight=balance)
        gradients = list(torch.autograd.grad(mean, weights))
        with torch.no_grad():
            if proximal:
                for gradient, weight, origin in zip(gradients, weights, start, strict=True):
                    gradient.add_(weight - origin, alpha=proximal)
            # What torch.optim.SGD calls; that class imports torch's compiler, which takes a site more than a second.
            sgd(
                weights,
                gradients,
                momenta,
                foreach=False,
                lr=learning_rate,
                momentum=0.9,
                weight_decay=weight_decay,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        total += mean.item() * len(chosen)
        seen += len(chosen)
    return total / seen


def batches(n: int, *, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Indices of the images of each batch, pass after pass without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.split(torch.randperm(n, generator=generator), batch_size)
