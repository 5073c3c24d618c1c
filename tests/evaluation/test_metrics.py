import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, matthews_corrcoef, roc_auc_score

from primia.errors import DataError
from primia.evaluation import metrics

CLASSES = ("normal", "bacterial", "viral")


def random_case(seed, images=60):
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), generator.integers(3, size=images - 3)])
    logits = generator.normal(size=(images, 3)) + 1.5 * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, labels


def expert_case():
    """The published answers of the human expert on 624 chest X-rays."""
    cells = np.array([[189, 3, 42], [67, 85, 90], [13, 11, 124]])
    actual, predicted = np.indices(cells.shape).reshape(2, 9)
    labels, answers = np.repeat(actual, cells.ravel()), np.repeat(predicted, cells.ravel())
    return np.eye(3)[answers], labels, cells


def test_the_human_expert_gets_the_published_figures():
    probabilities, labels, cells = expert_case()
    assert metrics.accuracy(probabilities, labels) == pytest.approx(0.638, abs=5e-4)
    assert metrics.mcc(probabilities, labels) == pytest.approx(0.499, abs=5e-4)
    assert metrics.recall(probabilities, labels, classes=CLASSES) == pytest.approx([0.808, 0.351, 0.838], abs=5e-4)
    assert (metrics.confusion(probabilities, labels) == cells).all()
    assert metrics.majority_accuracy(labels) == pytest.approx(242 / 624)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)  # the first example imports scikit-learn
def test_figures_agree_with_scikit_learn(seed):
    probabilities, labels = random_case(seed)
    assert metrics.mcc(probabilities, labels) == pytest.approx(matthews_corrcoef(labels, probabilities.argmax(1)))
    assert metrics.auc(probabilities, labels, classes=CLASSES) == pytest.approx(
        roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    )
    assert metrics.brier(probabilities, labels) == pytest.approx(
        brier_score_loss(labels, probabilities, scale_by_half=False)
    )


def test_an_absent_class_is_named_and_never_a_silent_zero():
    probabilities, labels = random_case(1)
    keep = labels != 2
    for figure in (metrics.auc, metrics.recall, metrics.roc_curves):
        with pytest.raises(DataError, match="none of class viral"):
            figure(probabilities[keep], labels[keep], classes=CLASSES)


def test_a_class_never_predicted_has_recall_zero():
    labels = np.array([0, 1, 2])
    assert metrics.recall(np.eye(3)[[0, 1, 0]], labels, classes=CLASSES).tolist() == [1.0, 1.0, 0.0]


def test_the_brier_score_is_zero_for_certain_truth_and_two_for_certain_error():
    labels = np.array([0, 1, 2])
    assert metrics.brier(np.eye(3)[labels], labels) == 0.0
    assert metrics.brier(np.eye(3)[(labels + 1) % 3], labels) == 2.0


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    probabilities = np.repeat([[0.75, 0.25]], 4, axis=0)
    assert metrics.calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0.0)
    assert metrics.calibration_error(probabilities, np.array([0, 0, 1, 1])) == pytest.approx(0.25)


def test_full_confidence_falls_into_the_last_calibration_bin():
    (only,) = metrics.calibration_bins(np.eye(2), np.array([0, 0]))
    assert (only.bin, only.confidence, only.accuracy, only.count) == (metrics.CALIBRATION_BINS - 1, 1.0, 0.5, 2)


def test_the_area_under_each_roc_curve_is_the_auc():
    probabilities, labels = random_case(3)
    curves = metrics.roc_curves(probabilities, labels, classes=CLASSES)
    areas = [np.trapezoid(curves[name].tpr, curves[name].fpr) for name in CLASSES]
    assert np.mean(areas) == pytest.approx(metrics.auc(probabilities, labels, classes=CLASSES))
