"""The sums of a validation: who was taken for what at all hospitals together, and the loss."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.errors import FederationError
from primia.federation.plan import Plan
from primia.federation.summed_changes import LARGEST_LOSS, LOSS_STEPS
from primia.federation.sums import Totals, impossible
from primia.secagg.vector import Layout, Part, share_of_word

_LARGEST_LOGIT = 1e30
_MOST_IMAGES = 10**7  # of all hospitals together; masks that do not cancel give far more


def evaluate_layout(plan: Plan) -> Layout:
    """Confusion counts in row order (actual, predicted), and the sum of losses."""
    share = share_of_word(len(plan.hospitals))
    return Layout((Part("confusion", len(plan.classes) ** 2, share), Part("loss", 1, share)))


def evaluate_values(logits: Tensor, labels: Tensor) -> dict[str, NDArray[np.int64] | int]:
    """One site's part of the validation; `logits` is (images, classes), `labels` (images,)."""
    classes = logits.shape[1]
    # No image may make the difference between an answer and an error.
    logits = torch.nan_to_num(logits.to(torch.float64), nan=0.0, posinf=_LARGEST_LOGIT, neginf=-_LARGEST_LOGIT)
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    cells = labels * classes + logits.argmax(dim=1)
    return {
        "confusion": np.bincount(cells.numpy(), minlength=classes**2),
        "loss": round(float(losses.clamp(max=LARGEST_LOSS).sum()) * LOSS_STEPS),
    }


@dataclass(frozen=True)
class Validation:
    """Figures over the validation images of all sites together."""

    mcc: float
    accuracy: float
    loss: float


def validation(totals: Totals) -> Validation:
    """Read the unmasked validation counts."""
    counts = totals["confusion"]
    classes = math.isqrt(len(counts))
    confusion = counts.reshape(classes, classes)
    images = int(confusion.sum())
    if images == 0:
        raise FederationError(
            "No hospital holds a validation image; raise preprocess.validation_fraction and run that stage again."
        )
    return Validation(
        mcc=mcc_of_confusion(confusion),
        accuracy=int(np.trace(confusion)) / images,
        loss=int(totals["loss"][0]) / LOSS_STEPS / images,
    )


def mcc_of_confusion(confusion: NDArray[np.int64]) -> float:
    """Multi-class Matthews correlation in [-1, 1] (Gorodkin 2004) of counts; 0 if only one class occurs or is said.

    From counts, since no list of predictions leaves a site.
    """
    actual = [int(n) for n in confusion.sum(axis=1)]
    predicted = [int(n) for n in confusion.sum(axis=0)]
    total, right = sum(actual), int(np.trace(confusion))
    covariance = right * total - sum(a * p for a, p in zip(actual, predicted, strict=True))
    spread = (total**2 - sum(a * a for a in actual)) * (total**2 - sum(p * p for p in predicted))
    return covariance / math.sqrt(spread) if spread else 0.0


def check_validation(totals: Totals) -> None:
    """Raise `FederationError` for validation counts of more images than there are."""
    images = int(totals["confusion"].sum())
    if images > _MOST_IMAGES or int(totals["loss"][0]) > LARGEST_LOSS * LOSS_STEPS * images + len(totals):
        raise impossible("validation counts")
