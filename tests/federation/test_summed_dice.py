import numpy as np
import pytest
import torch
from federating import calibrated, totals

from primia.errors import FederationError
from primia.federation.summed_dice import check_dice
from primia.federation.summed_validation import check_validation, evaluate_values, validation
from primia.models.overlap import patient_dice
from primia.privacy.noise import SystemNoise

SEGMENTING = {
    "task": "segmentation",
    "ingest__classes": ["background", "lungs"],
    "model__architecture": "unet",
    "training__loss": "dice",
}


@pytest.fixture
def segmenting(plan_with):
    return plan_with(**SEGMENTING)


@pytest.fixture
def segmenting_privately(plan_with, params_with):
    params = params_with(privacy__enabled=True, **SEGMENTING)
    privacy = calibrated(params.privacy, params.federation.rounds)
    return plan_with(privacy=privacy, privacy__enabled=True, **SEGMENTING)


def answers(n, *, seed=0, skill=1.5):
    """Logits (n, 2, 16, 16) that are right more often than not, and masks."""
    random = torch.Generator().manual_seed(seed)
    masks = (torch.rand(n, 16, 16, generator=random) < 0.3).to(torch.uint8)
    logits = torch.randn(n, 2, 16, 16, generator=random)
    return logits + skill * torch.nn.functional.one_hot(masks.long(), 2).movedim(-1, 1), masks


def said(plan, logits, masks, patients):
    return evaluate_values(plan, logits, masks, patients, noise=SystemNoise())


def test_dice_of_patients_adds_up_over_sites(segmenting):
    logits, masks = answers(12)
    patients = torch.arange(12) // 2
    parts = [said(segmenting, logits[part], masks[part], patients[part]) for part in (slice(0, 4), slice(4, 12))]
    pooled = validation(totals(*parts))
    exact = patient_dice(logits.argmax(dim=1), masks, patients, classes=2)
    assert pooled.score == pytest.approx(float(exact.mean()), abs=1e-3)
    assert pooled.accuracy is None and 0 < pooled.loss < 1
    check_validation(segmenting, totals(*parts), sites=2)


def test_a_patient_with_many_slices_counts_as_much_as_one_with_few(segmenting):
    logits, masks = answers(11)
    patients = torch.tensor([0] * 10 + [1])
    right = torch.nn.functional.one_hot(masks.long(), 2).movedim(-1, 1).float()
    logits = torch.cat([right[:10], 1 - right[10:]])  # the first patient is right, the second all wrong
    assert validation(totals(said(segmenting, logits, masks, patients))).score == pytest.approx(0.5)


def test_no_image_makes_the_difference_between_an_answer_and_an_error(segmenting):
    logits, masks = answers(2)
    logits[0, 0, 0, 0], logits[1, 1, 2, 2] = float("nan"), float("inf")
    assert 0 <= validation(totals(said(segmenting, logits, masks, torch.arange(2)))).score <= 1


def test_with_differential_privacy_overlaps_carry_noise_and_nothing_else_is_said(segmenting_privately):
    logits, masks = answers(600, skill=9.0)
    values = said(segmenting_privately, logits, masks, torch.arange(600))
    assert set(values) == {"overlaps"}
    assert (
        values["overlaps"].tolist() != said(segmenting_privately, logits, masks, torch.arange(600))["overlaps"].tolist()
    )
    figures = validation(totals(values))
    assert figures.score == pytest.approx(1.0, abs=0.15) and figures.loss is None


def test_noise_that_hides_all_patients_gives_no_score():
    assert validation({"overlaps": np.array([-300, 500])}).score == 0.0


@pytest.mark.parametrize("wrong", [2**30, -(2**20)])
def test_overlaps_that_honest_hospitals_cannot_have_are_refused(segmenting_privately, wrong):
    logits, masks = answers(30)
    honest = totals(*[said(segmenting_privately, logits, masks, torch.arange(30)) for _ in range(3)])
    check_dice(segmenting_privately, honest, sites=3)
    overlaps = honest["overlaps"].copy()
    overlaps[1] = wrong
    with pytest.raises(FederationError, match="outside what it can be"):
        check_dice(segmenting_privately, {"overlaps": overlaps}, sites=3)


def test_more_overlap_than_patients_is_refused(segmenting):
    logits, masks = answers(6)
    honest = totals(said(segmenting, logits, masks, torch.arange(6)))
    with pytest.raises(FederationError, match="outside what it can be"):
        check_dice(segmenting, {**honest, "dice": np.array([7 * 2**12])}, sites=1)
