import numpy as np
import pytest

from primia.comparison.statistics import figures_of, mean_score, scores_of
from primia.config import Evaluation
from primia.evaluation import metrics
from primia.evaluation.bootstrap import bootstrap_intervals

CLASSES = ("normal", "bacterial", "viral")
SETTINGS = Evaluation(bootstrap=400, seed=5)
PATIENTS = np.arange(120) // 2
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 40))


def answers(seed, skill=1.0, hardness=0.0):
    """Probabilities of a model; `hardness` is noise that belongs to the image, the same for every model."""
    own, of_image = np.random.default_rng(seed), np.random.default_rng(99)
    logits = own.normal(size=(120, 3)) + hardness * of_image.normal(size=(120, 3)) + skill * np.eye(3)[LABELS]
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def scored(probabilities):
    return scores_of(probabilities, LABELS, PATIENTS, settings=SETTINGS)


def test_a_score_is_the_figure_and_the_interval_of_the_evaluation():
    probabilities = answers(1)
    ends = bootstrap_intervals(probabilities, LABELS, PATIENTS, resamples=400, seed=5)
    values = {
        "mcc": metrics.mcc(probabilities, LABELS),
        "accuracy": metrics.accuracy(probabilities, LABELS),
        "auc": metrics.auc(probabilities, LABELS, classes=CLASSES),
    }
    for name, score in scored(probabilities).items():
        said = score.interval()
        assert said["value"] == pytest.approx(values[name])
        assert (said["low"], said["high"]) == pytest.approx((float(ends[name][0]), float(ends[name][1])))


def test_a_model_differs_from_itself_by_nothing_in_every_resample():
    for name in figures_of(LABELS):
        difference = scored(answers(1))[name] - scored(answers(1))[name]
        assert difference.interval() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_difference_is_that_of_the_figures_and_changes_its_sign_with_the_order():
    strong, weak = scored(answers(1, skill=3.0))["mcc"], scored(answers(2, skill=0.5))["mcc"]
    there, back = (strong - weak).interval(), (weak - strong).interval()
    assert there["value"] == strong.value - weak.value
    assert (there["low"], there["high"]) == pytest.approx((-back["high"], -back["low"]))
    assert there["low"] > 0


def test_what_makes_a_patient_hard_for_both_models_cancels_in_the_difference():
    one, other = (scored(answers(seed, skill=4.0, hardness=3.0))["mcc"] for seed in (1, 2))

    def width(score):
        said = score.interval()
        return said["high"] - said["low"]

    assert width(one - other) < 0.8 * np.hypot(width(one), width(other))


def test_the_mean_over_seeds_is_taken_within_each_resample():
    seeds = [scored(answers(seed))["accuracy"] for seed in (1, 2, 3)]
    mean = mean_score(seeds)
    assert mean.value == pytest.approx(np.mean([score.value for score in seeds]))
    assert mean.resampled[7] == pytest.approx(np.mean([score.resampled[7] for score in seeds]))


def test_the_difference_of_means_is_the_mean_of_the_differences():
    one, other = ([scored(answers(seed))["auc"] for seed in seeds] for seeds in ((1, 2), (3, 4)))
    difference = (mean_score(one) - mean_score(other)).interval()
    each = mean_score([a - b for a, b in zip(one, other, strict=True)]).interval()
    assert difference == pytest.approx(each)


def test_another_seed_of_the_bootstrap_draws_other_patients():
    again = scores_of(answers(1), LABELS, PATIENTS, settings=Evaluation(bootstrap=400, seed=6))
    assert (again["mcc"].resampled != scored(answers(1))["mcc"].resampled).any()
