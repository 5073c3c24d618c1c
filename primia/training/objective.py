"""What local training aims at, and how fast: the loss of each row, class weights, and the learning rate of a round."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LOSSES = ("cross_entropy", "dice", "dice_cross_entropy")
_SMOOTH = 1.0  # pixel


def row_losses(logits: Tensor, labels: Tensor, loss: str) -> Tensor:
    """The loss of each row of a batch on its own, as differential privacy needs it: (n,), cross-entropy in nats.

    Dice is 1 minus the mean, over all classes but the first, of (2·Σpt + 1) / (Σp + Σt + 1), p the softmax and t the
    truth at a pixel (Milletari et al. 2016, without squares). The added pixel makes a class that is absent, and not
    found, a Dice of 1; what is wrongly found of it costs no more per pixel than a class of one pixel would.

    Args:
        logits: (n, classes), or (n, classes, *spatial).
        labels: (n,) int64, or (n, *spatial); or probabilities in the shape of `logits`, as an attacker guesses masks.
        loss: of LOSSES; `dice_cross_entropy` is the sum of the two others. Of masks, the cross-entropy is the mean over
            a row's pixels. Dice is of masks only.
    """
    masks = logits.dim() > 2
    assert loss in LOSSES and (masks or loss == "cross_entropy"), loss
    each = torch.zeros(len(logits), device=logits.device)
    if loss != "dice":
        each = functional.cross_entropy(logits, labels, reduction="none")
        each = each.flatten(1).mean(dim=1) if masks else each
    if loss != "cross_entropy":
        each = each + 1 - _dice(logits, labels).mean(dim=1)
    return each


def _dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Soft Dice of each class but the first, (n, classes - 1)."""
    found = torch.softmax(logits, dim=1)[:, 1:].flatten(2)
    if labels.dim() == logits.dim():
        true = labels[:, 1:].flatten(2)
    else:
        numbers = torch.arange(1, logits.shape[1], device=logits.device).view(-1, 1)
        true = (labels.flatten(1)[:, None] == numbers).to(found.dtype)
    return (2 * (found * true).sum(dim=2) + _SMOOTH) / (found.sum(dim=2) + true.sum(dim=2) + _SMOOTH)


def balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Weights with which every class that occurs counts the same (King & Zeng 2001; scikit-learn's `balanced`).

    Args:
        counts: images per class over all hospitals, as the secure sum gives them; not all zero.

    Returns:
        One weight per class: images / (classes that occur x images of the class), so that the mean over all images is
        1 and a learning rate keeps its meaning. A class without images has weight 0.
    """
    assert min(counts) >= 0 < sum(counts)
    occurring = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (occurring * count) if count else 0.0 for count in counts)


def learning_rate_of(base: float, schedule: Literal["constant", "cosine"], *, round: int, rounds: int) -> float:
    """Local learning rate in a round; it depends on nothing else, so a restarted site goes on where it was.

    Args:
        base: learning rate of the first round.
        schedule: `cosine` falls along half a cosine towards zero (Loshchilov & Hutter 2017, equation 5, one period).
        round: counted from 1 to `rounds`.
        rounds: planned length of the whole run.
    """
    assert 1 <= round <= rounds
    if schedule == "constant":
        return base
    return base * (1 + math.cos(math.pi * (round - 1) / rounds)) / 2
