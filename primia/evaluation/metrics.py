"""Utility figures of predicted class probabilities, each a pure function of arrays.

Everywhere `probabilities` is (images, classes) with rows that sum to one, `labels` is (images,) of indices into the
classes, and the predicted class is the most probable one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CALIBRATION_BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of the reliability diagram: mean confidence and accuracy of the `count` images in it."""

    bin: int
    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class RocCurve:
    """Receiver operating characteristic of one class against the rest; both arrays are (points,) in [0, 1]."""

    fpr: Floats
    tpr: Floats


def require_every_class(labels: Ints, classes: Sequence[str]) -> None:
    """Refuse labels in which a class never occurs: its recall and its ROC curve would be undefined.

    Raises:
        DataError: names the absent classes.
    """
    counts = np.bincount(labels, minlength=len(classes))
    assert len(counts) == len(classes), "a label lies outside the classes"
    absent = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if absent:
        raise DataError(
            f"The images under evaluation hold none of class {', '.join(absent)}, so its recall and ROC-AUC are "
            "undefined; add such patients to the test set or take the class out of ingest.classes."
        )


def predictions(probabilities: Floats) -> Ints:
    """Most probable class of each image, (images,); the first one on a tie."""
    return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)


def mcc(probabilities: Floats, labels: Ints) -> float:
    """Multi-class Matthews correlation in [-1, 1] (Gorodkin 2004); 0 when only one class is ever predicted."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions(probabilities)))


def accuracy(probabilities: Floats, labels: Ints) -> float:
    """Share of images whose most probable class is the true one, in [0, 1]."""
    return float((predictions(probabilities) == labels).mean())


def majority_accuracy(labels: Ints) -> float:
    """Accuracy of always answering the most frequent class, in (0, 1]: what a figure has to beat."""
    return float(np.bincount(labels).max() / len(labels))


def auc(probabilities: Floats, labels: Ints, *, classes: Sequence[str]) -> float:
    """Area under the ROC curve, one class against the rest, mean over the classes, in [0, 1].

    Raises:
        DataError: a class never occurs in `labels`.
    """
    from sklearn.metrics import roc_auc_score

    require_every_class(labels, classes)
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in range(len(classes))]))


def recall(probabilities: Floats, labels: Ints, *, classes: Sequence[str]) -> Floats:
    """Share of each class's images that were found, (classes,) in [0, 1].

    Raises:
        DataError: a class never occurs in `labels`.
    """
    from sklearn.metrics import recall_score

    require_every_class(labels, classes)
    every = np.arange(len(classes))
    return np.asarray(recall_score(labels, predictions(probabilities), labels=every, average=None), dtype=np.float64)


def confusion(probabilities: Floats, labels: Ints) -> Ints:
    """Counts of images, (actual classes, predicted classes)."""
    from sklearn.metrics import confusion_matrix

    every = np.arange(probabilities.shape[1])
    return np.asarray(confusion_matrix(labels, predictions(probabilities), labels=every), dtype=np.int64)


def brier(probabilities: Floats, labels: Ints) -> float:
    """Mean squared distance between probabilities and truth, summed over classes, in [0, 2] (Brier 1950)."""
    return float(squared_distances(probabilities, labels).mean())


def squared_distances(probabilities: Floats, labels: Ints) -> Floats:
    """Each image's contribution to the Brier score, (images,) in [0, 2]."""
    truth = np.eye(probabilities.shape[1])[labels]
    return np.asarray(((probabilities - truth) ** 2).sum(axis=1), dtype=np.float64)


def confidence_bins(probabilities: Floats) -> Ints:
    """Index of each image's equal-width bin of confidence (its largest probability), (images,)."""
    bins = (probabilities.max(axis=1) * CALIBRATION_BINS).astype(np.int64)
    return np.asarray(np.minimum(bins, CALIBRATION_BINS - 1), dtype=np.int64)


def calibration_bins(probabilities: Floats, labels: Ints) -> list[CalibrationBin]:
    """The reliability diagram (Guo et al. 2017): bins that hold images, in order of confidence."""
    confidence, correct = probabilities.max(axis=1), predictions(probabilities) == labels
    bins = confidence_bins(probabilities)
    return [
        CalibrationBin(
            bin=int(b),
            confidence=float(confidence[bins == b].mean()),
            accuracy=float(correct[bins == b].mean()),
            count=int((bins == b).sum()),
        )
        for b in np.unique(bins)
    ]


def calibration_error(probabilities: Floats, labels: Ints) -> float:
    """Expected calibration error of the predicted class in [0, 1] (Guo et al. 2017, equation 3)."""
    bins = calibration_bins(probabilities, labels)
    return sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / len(labels)


def roc_curves(probabilities: Floats, labels: Ints, *, classes: Sequence[str]) -> dict[str, RocCurve]:
    """ROC curve of each class against the rest.

    Raises:
        DataError: a class never occurs in `labels`.
    """
    from sklearn.metrics import roc_curve

    require_every_class(labels, classes)
    curves = {}
    for index, name in enumerate(classes):
        fpr, tpr, _ = roc_curve(labels == index, probabilities[:, index])
        curves[name] = RocCurve(fpr=np.asarray(fpr, dtype=np.float64), tpr=np.asarray(tpr, dtype=np.float64))
    return curves
