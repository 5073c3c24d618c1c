import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.evaluation import metrics
from primia.evaluation.bootstrap import bootstrap_intervals, resampled_figures, weighted_figures

CLASSES = ("normal", "bacterial", "viral")


def random_case(seed, images=40):
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(3), generator.integers(3, size=images - 3)])
    logits = generator.normal(size=(images, 3)) + np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.round(probabilities, 2), labels  # rounded, so that scores tie


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)  # the first example imports scikit-learn
def test_a_weight_counts_as_so_many_copies_of_the_image(seed):
    probabilities, labels = random_case(seed)
    times = np.random.default_rng(seed).integers(0, 4, size=len(labels))
    times[:3] = 1  # every class occurs
    weighted = weighted_figures(probabilities, labels, times[None].astype(float))
    copies, truth = np.repeat(probabilities, times, axis=0), np.repeat(labels, times)
    assert weighted["mcc"][0] == pytest.approx(metrics.mcc(copies, truth))
    assert weighted["accuracy"][0] == pytest.approx(metrics.accuracy(copies, truth))
    assert weighted["auc"][0] == pytest.approx(metrics.auc(copies, truth, classes=CLASSES))
    assert weighted["recall"][0] == pytest.approx(metrics.recall(copies, truth, classes=CLASSES))
    assert weighted["brier"][0] == pytest.approx(metrics.brier(copies, truth))
    assert weighted["calibration_error"][0] == pytest.approx(metrics.calibration_error(copies, truth))


def test_a_constant_prediction_has_mcc_zero_in_every_resample():
    labels = np.array([0, 1, 2, 1])
    constant = np.eye(3)[np.zeros(4, dtype=int)]
    assert (resampled_figures(constant, labels, labels, resamples=50, seed=1)["mcc"] == 0).all()


def test_a_resample_without_a_class_is_left_out_of_its_recall_only():
    probabilities, labels = np.eye(3)[[0, 1, 2, 1]], np.array([0, 1, 2, 1])
    figures = resampled_figures(probabilities, labels, np.arange(4), resamples=200, seed=1)
    assert np.isnan(figures["recall"]).any()
    assert not np.isnan(figures["accuracy"]).any()
    low, high = bootstrap_intervals(probabilities, labels, np.arange(4), resamples=200, seed=1)["recall"]
    assert low.tolist() == high.tolist() == [1.0, 1.0, 1.0]


def test_the_interval_of_a_known_proportion_covers_it_in_about_95_of_100_studies():
    truth, images, studies, covered = 0.8, 150, 200, 0
    generator = np.random.default_rng(1)
    for study in range(studies):
        labels = generator.integers(2, size=images)
        answers = np.where(generator.random(images) < truth, labels, 1 - labels)
        low, high = bootstrap_intervals(np.eye(2)[answers], labels, np.arange(images), resamples=200, seed=study)[
            "accuracy"
        ]
        covered += low <= truth <= high
    assert 0.89 <= covered / studies <= 0.98


def test_copies_of_a_patients_images_add_no_evidence():
    probabilities, labels = random_case(5, images=60)
    patients = np.arange(60)
    single = bootstrap_intervals(probabilities, labels, patients, resamples=500, seed=1)["mcc"]
    copied = [np.repeat(array, 4, axis=0) for array in (probabilities, labels, patients)]
    by_patient = bootstrap_intervals(*copied, resamples=500, seed=1)["mcc"]
    by_image = bootstrap_intervals(copied[0], copied[1], np.arange(240), resamples=500, seed=1)["mcc"]
    assert np.array(by_patient) == pytest.approx(np.array(single))
    assert by_patient[1] - by_patient[0] > 1.5 * (by_image[1] - by_image[0])


def test_the_seed_decides_and_the_size_of_a_block_does_not(monkeypatch):
    probabilities, labels = random_case(2)
    patients = np.arange(len(labels)) // 2
    once = resampled_figures(probabilities, labels, patients, resamples=100, seed=7)["auc"]
    other = resampled_figures(probabilities, labels, patients, resamples=100, seed=8)["auc"]
    monkeypatch.setattr("primia.evaluation.bootstrap._WEIGHTS_AT_ONCE", 333)
    in_blocks = resampled_figures(probabilities, labels, patients, resamples=100, seed=7)["auc"]
    assert in_blocks == pytest.approx(once, nan_ok=True)
    assert not np.array_equal(once, other)


def test_a_thousand_resamples_of_624_images_take_less_than_five_seconds():
    probabilities, labels = random_case(4, images=624)
    start = time.process_time()
    bootstrap_intervals(probabilities, labels, np.arange(624) // 2, resamples=1000, seed=1)
    assert time.process_time() - start < 5
