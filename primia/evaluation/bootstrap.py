"""Percentile bootstrap over patients: a resample draws patients, and every image of a drawn patient comes along.

A resample is a vector of image weights, so that all figures of all resamples are a few matrix products.
"""

import numpy as np
from numpy.typing import NDArray

from primia.evaluation.metrics import Floats, Ints, confidence_bins, predictions, squared_distances

_WEIGHTS_AT_ONCE = 2_000_000  # 16 MB of weights a block, whatever the number of resamples


def bootstrap_intervals(
    probabilities: Floats, labels: Ints, patients: Ints, *, resamples: int, seed: int, confidence: float = 0.95
) -> dict[str, tuple[Floats, Floats]]:
    """Low and high end of the percentile interval (Efron 1979) of every figure.

    Images of one patient resemble each other; resampling images would pretend to more evidence than there is.
    A resample in which a class does not occur is left out for the figures that need the class (recall, AUC).
    Resampling adds scatter to the bins, so the interval of the calibration error leans upwards.

    Args:
        probabilities: (images, classes), rows sum to one.
        labels: (images,) class indices.
        patients: (images,) whose image it is; any integers.
        resamples: how many times patients are drawn, with replacement.
        seed: of the draws.
        confidence: probability mass between the ends, in (0, 1).

    Returns:
        (low, high) for mcc, accuracy, auc, brier and calibration_error as arrays of shape (), for recall (classes,).
    """
    figures = resampled_figures(probabilities, labels, patients, resamples=resamples, seed=seed)
    tail = (1 - confidence) / 2
    return {
        name: (np.asarray(np.nanquantile(values, tail, axis=0)), np.asarray(np.nanquantile(values, 1 - tail, axis=0)))
        for name, values in figures.items()
    }


def resampled_figures(
    probabilities: Floats, labels: Ints, patients: Ints, *, resamples: int, seed: int
) -> dict[str, Floats]:
    """Every figure in every resample: (resamples,), for recall (resamples, classes); NaN where undefined."""
    _, patient = np.unique(patients, return_inverse=True)  # (images,) 0 … drawn - 1
    drawn = int(patient.max()) + 1
    generator = np.random.default_rng(seed)
    block = max(1, _WEIGHTS_AT_ONCE // len(labels))
    parts = []
    for start in range(0, resamples, block):
        times = generator.multinomial(drawn, np.full(drawn, 1 / drawn), size=min(block, resamples - start))
        parts.append(weighted_figures(probabilities, labels, times[:, patient].astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def weighted_figures(probabilities: Floats, labels: Ints, weights: Floats) -> dict[str, Floats]:
    """The figures of `primia.evaluation.metrics` for many weightings of the same images.

    Args:
        probabilities: (images, classes).
        labels: (images,).
        weights: (weightings, images), how often each image counts.

    Returns:
        mcc, accuracy, auc, brier, calibration_error as (weightings,), recall as (weightings, classes).
    """
    classes = probabilities.shape[1]
    predicted, total = predictions(probabilities), weights.sum(axis=1)
    cells = np.eye(classes * classes)[labels * classes + predicted]  # (images, classes²)
    confusion = (weights @ cells).reshape(-1, classes, classes)  # (weightings, actual, predicted)
    hits = np.diagonal(confusion, axis1=1, axis2=2)  # (weightings, classes)
    with np.errstate(invalid="ignore"):  # 0 / 0 where a resample lacks a class: NaN, left out by the caller
        recall = hits / confusion.sum(axis=2)
    return {
        "mcc": _mcc(confusion),
        "accuracy": hits.sum(axis=1) / total,
        "auc": np.mean([_auc(probabilities[:, c], labels == c, weights) for c in range(classes)], axis=0),
        "recall": recall,
        "brier": weights @ squared_distances(probabilities, labels) / total,
        "calibration_error": _calibration_error(probabilities, predicted == labels, weights),
    }


def _mcc(confusion: Floats) -> Floats:
    """R_K of Gorodkin 2004, (weightings,); 0 where truth or prediction is constant, as in scikit-learn."""
    actual, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    total = confusion.sum(axis=(1, 2))
    correct = np.trace(confusion, axis1=1, axis2=2)
    covariance = correct * total - (actual * predicted).sum(axis=1)
    spread = (total**2 - (actual**2).sum(axis=1)) * (total**2 - (predicted**2).sum(axis=1))
    figures = np.divide(covariance, np.sqrt(spread), out=np.zeros_like(covariance), where=spread > 0)
    return np.asarray(figures, dtype=np.float64)


def _auc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Weighted Mann-Whitney statistic, ties counted half, (weightings,); NaN without positives or negatives."""
    order = np.argsort(scores, kind="stable")
    ties = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # where a new score begins
    ups = np.add.reduceat((weights * positive)[:, order], ties, axis=1)  # (weightings, distinct scores)
    downs = np.add.reduceat((weights * ~positive)[:, order], ties, axis=1)
    below = np.cumsum(downs, axis=1) - downs / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1)), dtype=np.float64)


def _calibration_error(probabilities: Floats, correct: NDArray[np.bool_], weights: Floats) -> Floats:
    gap = correct - probabilities.max(axis=1)
    bins = confidence_bins(probabilities)
    gaps_in_bins = np.eye(bins.max() + 1)[bins] * gap[:, None]  # (images, bins)
    return np.asarray(np.abs(weights @ gaps_in_bins).sum(axis=1) / weights.sum(axis=1), dtype=np.float64)


def resampled_means(values: Floats, *, resamples: int, seed: int) -> Floats:
    """Mean over patients of every column in every resample of patients, (resamples, columns).

    Args:
        values: (patients, columns); NaN says nothing about a patient, and does not count.
        resamples: how many times patients are drawn, with replacement.
        seed: of the draws; equal seeds and numbers of patients give equal draws.
    """
    patients = len(values)
    times = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=resamples)
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # 0 / 0 where a resample has nobody who counts: NaN, left out by the caller
        means = (times @ np.where(there, values, 0.0)) / (times @ there)
    return np.asarray(means, dtype=np.float64)


def mean_intervals(
    values: Floats, *, resamples: int, seed: int, confidence: float = 0.95
) -> list[dict[str, float | None]]:
    """Value and ends of the percentile interval of the mean over all columns, and of that of each column.

    A column without a number has None, and the mean over the columns leaves it out.

    Args:
        values: (patients, columns), as for `resampled_means`.
        resamples: see there.
        seed: see there.
        confidence: probability mass between the ends, in (0, 1).
    """
    means, tail = resampled_means(values, resamples=resamples, seed=seed), (1 - confidence) / 2
    there = np.flatnonzero(~np.isnan(values).all(axis=0))
    told: list[dict[str, float | None]] = []
    for chosen in (there, *np.arange(values.shape[1])[:, None]):
        exact, drawn = values[:, chosen], means[:, chosen]
        if np.isnan(exact).all():
            told.append({"value": None, "low": None, "high": None})
            continue
        low, high = np.nanquantile(drawn.mean(axis=1), [tail, 1 - tail])
        told.append({"value": float(np.nanmean(exact, axis=0).mean()), "low": float(low), "high": float(high)})
    return told
