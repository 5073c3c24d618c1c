"""What travels in the masked vectors of the three purposes, and how the sums are read.

Real sums become integers on a public grid: moments in steps of 2^-12, losses in steps of 2^-8. Their rounding is far
below the figures' own spread, and integers add up to the same bits in any order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.errors import FederationError
from primia.federation.plan import Plan
from primia.secagg.vector import Layout, Part, share_of_word
from primia.training.objective import balanced_weights

_MOMENT_STEPS = 2**12
_LOSS_STEPS = 2**8
_LARGEST_LOSS = 32.0  # of one image; a network this wrong needs no finer figure
_LARGEST_LOGIT = 1e30
_SMALLEST_STD = 1e-3
_MOST_IMAGES = 10**7  # of all hospitals together; masks that do not cancel give far more
_WORD = 32

Totals = Mapping[str, NDArray[np.int64]]


def statistics_layout(plan: Plan) -> Layout:
    """Count of training images, sums of their means and mean squares, and counts of labels if classes are weighed."""
    share = share_of_word(len(plan.hospitals))
    labels = len(plan.classes) if plan.training.class_weights else 0
    return Layout(
        (Part("images", 1, share), Part("mean", 1, share), Part("square", 1, share), Part("labels", labels, share))
    )


def statistics_values(plan: Plan, images: Tensor, labels: Tensor) -> dict[str, NDArray[np.int64] | int]:
    """One site's part of the statistics; `images` is (images, 1, pixels, pixels) in [0, 1], `labels` (images,)."""
    pixels = images.to(torch.float64).flatten(1)
    counts = np.bincount(labels.numpy(), minlength=len(plan.classes))
    return {
        "images": len(images),
        "mean": round(float(pixels.mean(dim=1).sum()) * _MOMENT_STEPS),
        "square": round(float(pixels.square().mean(dim=1).sum()) * _MOMENT_STEPS),
        "labels": counts if plan.training.class_weights else np.zeros(0, dtype=np.int64),
    }


@dataclass(frozen=True)
class PooledStatistics:
    """Mean and standard deviation of the training pixels of the sites in `counted`, and their number of images.

    `class_weights` balance the label counts of all these images, None where the plan does not weigh classes.
    """

    images: int
    mean: float
    std: float
    counted: tuple[str, ...]
    class_weights: tuple[float, ...] | None = None


def pooled_statistics(totals: Totals, *, counted: Sequence[str]) -> PooledStatistics:
    """Read the unmasked statistics of the sites in `counted`."""
    images = int(totals["images"][0])
    if images == 0:
        raise FederationError("No hospital holds a training image; run the preprocess stage again.")
    mean, square = (int(totals[name][0]) / _MOMENT_STEPS / images for name in ("mean", "square"))
    std = math.sqrt(max(square - mean**2, _SMALLEST_STD**2))
    labels = [int(count) for count in totals["labels"]]
    return PooledStatistics(
        images=images,
        mean=float(np.float32(mean)),
        std=float(np.float32(std)),
        counted=tuple(sorted(counted)),
        class_weights=balanced_weights(labels) if labels else None,
    )


@dataclass(frozen=True)
class WeightBound:
    """Public bounds of the weights in a round: of their sum, and of a site that the statistics did not count."""

    total: int
    spare: int


def weight_bound(plan: Plan, statistics: PooledStatistics) -> WeightBound:
    """The statistics say what the counted sites weigh together; the others share what is left of a 32-bit sum."""
    hospitals = len(plan.hospitals)
    if plan.weights == "equal":
        return WeightBound(total=hospitals, spare=1)
    missing = hospitals - len(statistics.counted)
    spare = max((1 << (_WORD - plan.secure_aggregation.bits)) - statistics.images, 0) // missing if missing else 0
    return WeightBound(total=statistics.images + missing * spare, spare=spare)


def train_layout(plan: Plan, *, parameters: int, total_weight: int) -> Layout:
    """Weighted integer change of every weight, and what is said about it.

    These are the weight, the clipped entries, whether the change was scaled down to the norm bound, and, without
    differential privacy (which does not cover it), the weighted training loss.

    Raises:
        ConfigError: the sum could leave 32 bits.
    """
    plan.quantiser.check_headroom(total_weight)
    share = share_of_word(len(plan.hospitals))
    return Layout(
        (
            Part("delta", parameters, total_weight * plan.quantiser.levels, signed=True),
            Part("weight", 1, total_weight),
            Part("clipped", 1, share),
            Part("shrunk", 1, 1),
            Part("loss", 1 if plan.privacy is None else 0, share),
        )
    )


def weighted_loss(plan: Plan, loss: float, *, weight: int) -> NDArray[np.int64]:
    """One site's training loss times its weight, (1,); (0,) with differential privacy."""
    if plan.privacy is not None:
        return np.zeros(0, dtype=np.int64)
    steps = round(min(max(0.0, loss), _LARGEST_LOSS) * weight * _LOSS_STEPS)
    return np.array([min(steps, share_of_word(len(plan.hospitals)))], dtype=np.int64)


def mean_loss(totals: Totals, *, weight: int) -> float | None:
    """Mean training loss per image over all sites; None with differential privacy."""
    return int(totals["loss"][0]) / _LOSS_STEPS / weight if len(totals["loss"]) else None


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
        "loss": round(float(losses.clamp(max=_LARGEST_LOSS).sum()) * _LOSS_STEPS),
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
        loss=int(totals["loss"][0]) / _LOSS_STEPS / images,
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


def check_statistics(totals: Totals) -> None:
    """Raise `FederationError` for a sum of statistics that no images in [0, 1] can have."""
    images, mean, square = (int(totals[name][0]) for name in ("images", "mean", "square"))
    labels = totals["labels"]
    fits = images <= _MOST_IMAGES and 0 <= mean <= images * _MOMENT_STEPS and square <= mean + len(totals) + images
    if not fits or (len(labels) and int(labels.sum()) != images):
        raise _impossible("statistics")


def check_training(plan: Plan, totals: Totals, *, sites: int, total_weight: int) -> None:
    """Raise `FederationError` for a sum of changes that `sites` honest sites cannot have."""
    weight, levels = int(totals["weight"][0]), plan.quantiser.levels
    delta = totals["delta"]
    if not (
        0 <= weight <= total_weight
        and max(int(delta.max(initial=0)), -int(delta.min(initial=0))) <= weight * levels
        and int(totals["clipped"][0]) <= sites * len(delta)
        and int(totals["shrunk"][0]) <= sites
        and all(int(loss) <= math.ceil(_LARGEST_LOSS * _LOSS_STEPS) * weight + sites for loss in totals["loss"])
    ):
        raise _impossible("changes")


def check_validation(totals: Totals) -> None:
    """Raise `FederationError` for validation counts of more images than there are."""
    images = int(totals["confusion"].sum())
    if images > _MOST_IMAGES or int(totals["loss"][0]) > _LARGEST_LOSS * _LOSS_STEPS * images + len(totals):
        raise _impossible("validation counts")


def _impossible(what: str) -> FederationError:
    return FederationError(
        f"The sum of the {what} lies outside what it can be: a hospital lied, or fell silent after it was told "
        "something else; see who dropped out in rounds.jsonl, and run the same command to resume."
    )
