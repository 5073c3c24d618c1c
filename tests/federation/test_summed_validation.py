import math

import numpy as np
import pytest
import torch
from federating import totals
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

from primia.errors import FederationError
from primia.federation.summed_validation import check_validation, evaluate_values, mcc_of_confusion, validation
from primia.privacy.noise import SystemNoise


def said(plan, logits, labels, patients=None):
    """One hospital's part; without `patients` every image is of another one."""
    patients = torch.arange(len(labels)) if patients is None else patients
    return evaluate_values(plan, logits, labels, patients, noise=SystemNoise())


def test_validation_counts_add_up_over_sites(plan_with):
    random = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(40, 3, generator=random), torch.randint(0, 3, (40,), generator=random)
    parts = [said(plan_with(), logits[part], labels[part]) for part in (slice(0, 7), slice(7, 30), slice(30, 40))]
    pooled = validation(totals(*parts))
    assert pooled.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert pooled.score == pytest.approx(matthews_corrcoef(labels, logits.argmax(1)))
    assert pooled.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-3)
    assert parts[0]["confusion"].reshape(3, 3).sum(axis=1).tolist() == np.bincount(labels[:7], minlength=3).tolist()


def test_a_hopeless_loss_is_bounded(plan_with):
    values = said(plan_with(), torch.tensor([[1e6, 0.0]]), torch.tensor([1]))
    assert values["loss"] == 32 * 256


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
@settings(deadline=None)
def test_mcc_of_counts_agrees_with_scikit_learn(pairs):
    actual, predicted = zip(*pairs, strict=True)
    confusion = np.zeros((4, 4), dtype=np.int64)
    np.add.at(confusion, (actual, predicted), 1)
    expected = 0.0 if len(set(actual)) == 1 or len(set(predicted)) == 1 else matthews_corrcoef(actual, predicted)
    assert mcc_of_confusion(confusion) == pytest.approx(expected)


def test_mcc_of_counts_is_exact_for_many_images():
    confusion = np.array([[10**6, 0], [0, 10**6]])
    assert mcc_of_confusion(confusion) == 1.0


def test_no_image_makes_the_difference_between_an_answer_and_an_error(plan_with):
    logits = torch.tensor([[math.nan, 0.0, 1.0], [math.inf, 0.0, -math.inf]])
    values = said(plan_with(), logits, torch.tensor([0, 1]))
    assert values["confusion"].sum() == 2
    assert values["loss"] == 2**8 * 32 + round(2**8 * float(torch.logsumexp(torch.tensor([0.0, 0.0, 1.0]), 0)))


def test_with_differential_privacy_patients_are_counted_with_noise_and_there_is_no_loss(private_plan):
    labels = torch.arange(6000) % 3
    logits = torch.nn.functional.one_hot(labels, 3).double()
    logits[:600] = logits[:600].roll(1, dims=1)  # a tenth is wrong
    patients = torch.arange(6000) // 2
    values = said(private_plan, logits, labels, patients)
    figures = validation(totals(values))
    # 3,000 patients; the noise on a cell is a few patients.
    assert figures.accuracy == pytest.approx(0.9, abs=0.05) and figures.loss is None
    assert int(values["confusion"].sum()) / 256 == pytest.approx(3000, rel=0.1)
    assert values["confusion"].tolist() != said(private_plan, logits, labels, patients)["confusion"].tolist()


def test_cells_that_noise_made_negative_count_as_nothing():
    figures = validation({"confusion": np.array([500, -90, 0, 500])})
    assert (figures.score, figures.accuracy) == (1.0, 1.0)
    with pytest.raises(FederationError, match="No hospital holds a validation image"):
        validation({"confusion": np.array([-5, 0, 0, -1])})


def test_honest_noisy_counts_are_believed_and_others_not(private_plan):
    labels = torch.arange(30) % 3
    honest = totals(*[said(private_plan, torch.randn(30, 3), labels) for _ in range(3)])
    check_validation(private_plan, honest, sites=3)
    for wrong in (2**30, -(2**20)):
        confusion = honest["confusion"].copy()
        confusion[4] = wrong
        with pytest.raises(FederationError, match="outside what it can be"):
            check_validation(private_plan, {"confusion": confusion}, sites=3)
