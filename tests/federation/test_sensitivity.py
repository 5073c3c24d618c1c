"""What one patient can change of each sum beside the gradients, and whether the noise is made for it."""

import math

import numpy as np
import pytest
import torch

from primia.federation.summed_dice import dice_values
from primia.federation.summed_statistics import statistics_values
from primia.federation.summed_validation import evaluate_values
from primia.privacy.patient_sums import STEPS


class Constant:
    """Noise that shows its deviation: everywhere the same number of deviations."""

    def __init__(self, value):
        self.value = value

    def normal(self, shape):
        return torch.full(tuple(shape), self.value, dtype=torch.float64)


def deviation_of(values):
    """Of the noise on every entry, in steps of the grid; `values` takes a source of noise."""
    apart = np.unique(values(Constant(1.0)) - values(Constant(0.0)))
    assert len(apart) == 1
    return float(apart[0])


def change_of(with_patient, without):
    """How far the noiseless sum moves when one patient takes part, in units."""
    return float(np.linalg.norm(with_patient(Constant(0.0)) - without(Constant(0.0)))) / STEPS


def check(with_patient, without, *, noise_multiplier, entries):
    """The patient who changes most is just what the noise is made for."""
    most = change_of(with_patient, without)
    # A step per entry is for rounding.
    assert deviation_of(with_patient) == pytest.approx(noise_multiplier * (most * STEPS + math.sqrt(entries)), abs=1)


def test_the_noise_on_the_statistics_is_made_for_a_patient_whose_images_are_white(private_plan):
    images = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    images[:3] = 1.0
    patients = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4])

    def moments(kept):
        labels = torch.zeros(len(images), dtype=torch.int64)
        return lambda noise: statistics_values(private_plan, images[kept], labels[kept], patients[kept], noise=noise)[
            "moments"
        ]

    everybody, others = moments(patients >= 0), moments(patients > 0)
    assert change_of(everybody, others) == pytest.approx(math.sqrt(3), abs=0.02)
    check(everybody, others, noise_multiplier=private_plan.privacy.statistics_noise, entries=3)


def test_the_noise_on_the_validation_is_made_for_a_patient_whose_images_all_fall_into_one_cell(private_plan):
    logits = torch.eye(3)[[0, 0, 0, 1, 2, 1, 0]]
    labels, patients = torch.tensor([2, 2, 2, 1, 2, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 2, 3])

    def confusion(kept):
        return lambda noise: evaluate_values(private_plan, logits[kept], labels[kept], patients[kept], noise=noise)[
            "confusion"
        ]

    everybody, others = confusion(patients >= 0), confusion(patients > 0)
    assert change_of(everybody, others) == pytest.approx(1.0, abs=0.02)
    check(everybody, others, noise_multiplier=private_plan.privacy.validation_noise, entries=9)


def test_the_noise_on_sums_of_dice_is_made_for_a_patient_whose_structures_are_all_found(private_plan):
    plan = private_plan
    masks = torch.randint(0, 3, (5, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    logits = torch.nn.functional.one_hot(masks.long(), 3).movedim(-1, 1).double()
    logits[2:] = logits[2:].roll(1, dims=1)  # the others' structures are taken for one another
    patients = torch.tensor([0, 0, 1, 2, 2])

    def overlaps(kept):
        return lambda noise: dice_values(plan, logits[kept], masks[kept], patients[kept], noise=noise)["overlaps"]

    everybody, others = overlaps(patients >= 0), overlaps(patients > 0)
    assert change_of(everybody, others) == pytest.approx(math.sqrt(3), abs=0.02)
    check(everybody, others, noise_multiplier=plan.privacy.validation_noise, entries=3)
