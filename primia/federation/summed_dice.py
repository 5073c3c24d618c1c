"""The sums of a validation of class maps: Dice of every structure over the patients of all hospitals together.

Dice becomes an integer in steps of 2^-12 (2^-8 with differential privacy), far finer than its own spread.
"""

import math

import numpy as np
import torch
from torch import Tensor

from primia.errors import FederationError
from primia.federation.plan import Plan
from primia.federation.summed_changes import LARGEST_LOSS, LOSS_STEPS
from primia.federation.sums import Totals, Values, as_numbers, impossible, most_patients
from primia.models.overlap import patient_dice
from primia.privacy.noise import NoiseSource
from primia.privacy.patient_sums import STEPS, NoisySum
from primia.secagg.vector import Layout, Part, share_of_signed_word, share_of_word
from primia.training.objective import row_losses

_AT_A_TIME = 16  # images in float64: 100 MB of 256 x 256 pixels and three classes with the temporaries
_DICE_STEPS = 2**12
_MOST_PATIENTS = 10**6  # of all hospitals together; masks of the protocol that do not cancel give far more


def dice_layout(plan: Plan) -> Layout:
    """Number of patients, the sum of their Dice for each structure, number of images, and the sum of their losses.

    With differential privacy: `overlaps`, number of patients and sums of Dice with noise, and nothing else.
    """
    hospitals, structures = len(plan.hospitals), len(plan.classes) - 1
    if plan.privacy is not None:
        return Layout((Part("overlaps", 1 + structures, share_of_signed_word(hospitals), signed=True),))
    share = share_of_word(hospitals)
    return Layout(
        (Part("patients", 1, share), Part("dice", structures, share), Part("images", 1, share), Part("loss", 1, share))
    )


def dice_values(plan: Plan, logits: Tensor, masks: Tensor, patients: Tensor, *, noise: NoiseSource) -> Values:
    """One site's part of the validation.

    Args:
        plan: of the run.
        logits: (images, classes, *spatial).
        masks: (images, *spatial) uint8.
        patients: (images,) int64, equal for images of one patient.
        noise: of differential privacy; unused without it.
    """
    found = torch.cat([as_numbers(batch).argmax(dim=1) for batch in torch.split(logits, _AT_A_TIME)])
    dice = patient_dice(found, masks, patients, classes=len(plan.classes))
    # To leave patients out would need a count for each structure; here nothing where nothing is counts as right.
    dice = dice.nan_to_num(1.0)
    if plan.privacy is not None:
        exact = np.concatenate([[float(len(dice))], dice.sum(dim=0).numpy()])
        limit = share_of_signed_word(len(plan.hospitals))
        return {"overlaps": _noisy_overlaps(plan).release(exact, limit=limit, noise=noise)}
    batches = zip(torch.split(logits, _AT_A_TIME), torch.split(masks, _AT_A_TIME), strict=True)
    losses = torch.cat([row_losses(as_numbers(batch), mask.long(), plan.training.loss) for batch, mask in batches])
    return {
        "patients": len(dice),
        "dice": torch.round(dice * _DICE_STEPS).sum(dim=0).to(torch.int64).numpy(),
        "images": len(masks),
        "loss": round(float(losses.clamp(max=LARGEST_LOSS).sum()) * LOSS_STEPS),
    }


def _noisy_overlaps(plan: Plan) -> NoisySum:
    assert plan.privacy is not None
    # A patient counts once, and each structure's Dice lies in [0, 1].
    entries = len(plan.classes)
    return NoisySum(entries=entries, sensitivity=math.sqrt(entries), noise_multiplier=plan.privacy.validation_noise)


def read_dice(totals: Totals) -> tuple[float, float | None]:
    """Mean Dice over patients and structures in [0, 1], and the mean loss over images (None with privacy)."""
    if "overlaps" in totals:
        patients, *sums = (int(entry) / STEPS for entry in totals["overlaps"])
        # Noise may leave fewer than no patients, or more overlap than there can be.
        if patients < 1:
            return 0.0, None
        return float(np.clip(np.mean(sums) / patients, 0.0, 1.0)), None
    patients, images = int(totals["patients"][0]), int(totals["images"][0])
    if patients == 0:
        raise FederationError(
            "No hospital holds a validation image; raise preprocess.validation_fraction and run that stage again."
        )
    mean = float(totals["dice"].mean()) / _DICE_STEPS / patients
    return mean, int(totals["loss"][0]) / LOSS_STEPS / images


def check_dice(plan: Plan, totals: Totals, *, sites: int) -> None:
    """Raise `FederationError` for sums that `sites` honest sites cannot have."""
    if plan.privacy is not None:
        patients, *sums = (int(entry) for entry in totals["overlaps"])
        spread = _noisy_overlaps(plan).spread(sites) + 2 * sites
        fits = -spread <= patients <= most_patients(plan, sites) * STEPS
        if not (fits and all(-spread <= entry <= patients + 2 * spread for entry in sums)):
            raise impossible("validation figures")
        return
    patients, images = int(totals["patients"][0]), int(totals["images"][0])
    fits = patients <= min(_MOST_PATIENTS, images) and int(totals["dice"].max()) <= patients * _DICE_STEPS
    if not fits or int(totals["loss"][0]) > LARGEST_LOSS * LOSS_STEPS * images + len(totals):
        raise impossible("validation figures")
