"""The sums of a validation: who was taken for what at all hospitals together, and the loss.

Those of a segmentation are in `primia.federation.summed_dice`.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.errors import FederationError
from primia.federation.plan import Plan
from primia.federation.summed_changes import LARGEST_LOSS, LOSS_STEPS
from primia.federation.summed_dice import check_dice, dice_layout, dice_values, read_dice
from primia.federation.sums import Totals, Values, as_numbers, impossible, most_patients
from primia.privacy.noise import NoiseSource
from primia.privacy.patient_sums import STEPS, NoisySum, weights_of
from primia.secagg.vector import Layout, Part, share_of_signed_word, share_of_word

_MOST_IMAGES = 10**7  # of all hospitals together; masks that do not cancel give far more


def evaluate_layout(plan: Plan) -> Layout:
    """Confusion counts in row order (actual, predicted), and the sum of losses.

    With differential privacy patients are counted instead of images, and there is no loss, which has no bound per
    patient that would leave much of it.
    """
    if plan.segments:
        return dice_layout(plan)
    cells, hospitals = len(plan.classes) ** 2, len(plan.hospitals)
    if plan.privacy is not None:
        return Layout((Part("confusion", cells, share_of_signed_word(hospitals), signed=True),))
    share = share_of_word(hospitals)
    return Layout((Part("confusion", cells, share), Part("loss", 1, share)))


def evaluate_values(plan: Plan, logits: Tensor, labels: Tensor, patients: Tensor, *, noise: NoiseSource) -> Values:
    """One site's part of the validation.

    Args:
        plan: of the run.
        logits: (images, classes), or of masks (images, classes, *spatial).
        labels: (images,) int64, or masks (images, *spatial) uint8.
        patients: (images,) int64, equal for images of one patient.
        noise: of differential privacy; unused without it.
    """
    classes = logits.shape[1]
    if plan.segments:
        return dice_values(plan, logits, labels, patients, noise=noise)
    logits = as_numbers(logits)
    cells = (labels * classes + logits.argmax(dim=1)).numpy()
    if plan.privacy is not None:
        exact = np.bincount(cells, weights=weights_of(patients).numpy(), minlength=classes**2).astype(np.float64)
        limit = share_of_signed_word(len(plan.hospitals))
        return {"confusion": _noisy_confusion(plan).release(exact, limit=limit, noise=noise)}
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return {
        "confusion": np.bincount(cells, minlength=classes**2),
        "loss": round(float(losses.clamp(max=LARGEST_LOSS).sum()) * LOSS_STEPS),
    }


def _noisy_confusion(plan: Plan) -> NoisySum:
    assert plan.privacy is not None
    # A patient adds 1 in all, spread over cells as the images are: an L2 norm of at most 1.
    return NoisySum(entries=len(plan.classes) ** 2, sensitivity=1.0, noise_multiplier=plan.privacy.validation_noise)


@dataclass(frozen=True)
class Validation:
    """Figures over the validation images of all sites together.

    `score` is the MCC in [-1, 1], or of masks the mean Dice over patients and structures in [0, 1]. `accuracy` is None
    for masks, and `loss` with differential privacy.
    """

    score: float
    accuracy: float | None
    loss: float | None


def validation(totals: Totals) -> Validation:
    """Read the unmasked validation sums; what noise made negative counts as nothing."""
    if "confusion" not in totals:
        score, loss = read_dice(totals)
        return Validation(score=score, accuracy=None, loss=loss)
    counts = np.maximum(totals["confusion"], 0)
    classes = math.isqrt(len(counts))
    confusion = counts.reshape(classes, classes)
    total = int(confusion.sum())
    if total == 0:
        raise FederationError(
            "No hospital holds a validation image; raise preprocess.validation_fraction and run that stage again."
        )
    return Validation(
        score=mcc_of_confusion(confusion),
        accuracy=int(np.trace(confusion)) / total,
        loss=int(totals["loss"][0]) / LOSS_STEPS / total if "loss" in totals else None,
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


def check_validation(plan: Plan, totals: Totals, *, sites: int) -> None:
    """Raise `FederationError` for validation counts that `sites` honest sites cannot have."""
    if plan.segments:
        check_dice(plan, totals, sites=sites)
        return
    confusion = totals["confusion"]
    if plan.privacy is not None:
        spread = _noisy_confusion(plan).spread(sites) + sites
        if int(confusion.min()) < -spread or int(confusion.max()) > most_patients(plan, sites) * STEPS:
            raise impossible("validation counts")
        return
    images = int(confusion.sum())
    if images > _MOST_IMAGES or int(totals["loss"][0]) > LARGEST_LOSS * LOSS_STEPS * images + len(totals):
        raise impossible("validation counts")
