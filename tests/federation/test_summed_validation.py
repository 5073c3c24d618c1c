import math

import numpy as np
import pytest
import torch
from federating import totals
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

from primia.federation.summed_validation import (
    evaluate_values,
    mcc_of_confusion,
    validation,
)


def test_validation_counts_add_up_over_sites():
    random = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(40, 3, generator=random), torch.randint(0, 3, (40,), generator=random)
    parts = [evaluate_values(logits[part], labels[part]) for part in (slice(0, 7), slice(7, 30), slice(30, 40))]
    pooled = validation(totals(*parts))
    assert pooled.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert pooled.mcc == pytest.approx(matthews_corrcoef(labels, logits.argmax(1)))
    assert pooled.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-3)
    assert parts[0]["confusion"].reshape(3, 3).sum(axis=1).tolist() == np.bincount(labels[:7], minlength=3).tolist()


def test_a_hopeless_loss_is_bounded():
    values = evaluate_values(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))
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


def test_no_image_makes_the_difference_between_an_answer_and_an_error():
    logits = torch.tensor([[math.nan, 0.0, 1.0], [math.inf, 0.0, -math.inf]])
    values = evaluate_values(logits, torch.tensor([0, 1]))
    assert values["confusion"].sum() == 2
    assert values["loss"] == 2**8 * 32 + round(2**8 * float(torch.logsumexp(torch.tensor([0.0, 0.0, 1.0]), 0)))
