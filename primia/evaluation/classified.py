"""A model that names classes, on the test patients: figures with 95 % intervals, and the files that carry them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from primia import files
from primia.config import Evaluation
from primia.data.image_set import ImageSet
from primia.evaluation import metrics
from primia.evaluation.bootstrap import bootstrap_intervals
from primia.evaluation.common import common_figures, finite
from primia.evaluation.metrics import Floats, Ints
from primia.models.released import ReleasedModel


@dataclass(frozen=True)
class Classified:
    """What the model answered and how good that was; `figures` is the content of metrics.json."""

    figures: dict[str, Any]
    probabilities: Floats  # (images, classes), rows sum to one
    labels: Ints  # (images,)
    classes: tuple[str, ...]
    patients: Ints  # (images,), a number for each patient

    @property
    def answers(self) -> Floats:
        """What a comparison keeps of a model: the probabilities."""
        return self.probabilities

    def write(self, folder: Path) -> None:
        """Write metrics.json and the CSV files of the plots; `folder` is replaced as a whole or not at all."""
        actual = [self.classes[label] for label in self.labels]
        predicted = [self.classes[label] for label in metrics.predictions(self.probabilities)]
        curves = metrics.roc_curves(self.probabilities, self.labels, classes=self.classes)
        bins = [asdict(b) for b in metrics.calibration_bins(self.probabilities, self.labels)]
        with files.folder_in_progress(folder) as progress:
            files.write_json(progress / "metrics.json", self.figures)
            files.write_csv(progress / "confusion.csv", ["actual", "predicted"], zip(actual, predicted, strict=True))
            files.write_csv(
                progress / "roc.csv",
                ["class", "fpr", "tpr"],
                ((name, fpr, tpr) for name, c in curves.items() for fpr, tpr in zip(c.fpr, c.tpr, strict=True)),
            )
            files.write_csv(progress / "calibration.csv", list(bins[0]), (b.values() for b in bins))
            files.write_csv(
                progress / "predictions.csv",
                # Numbers, not names: these files travel with the model, and a file name may hold a name.
                ["image", "patient", "actual", *self.classes],
                (
                    (image, patient, label, *(f"{probability:.9g}" for probability in row))
                    for image, (patient, label, row) in enumerate(
                        zip(self.patients, actual, self.probabilities, strict=True)
                    )
                ),
            )


def judge_classes(model: ReleasedModel, test: ImageSet, *, settings: Evaluation) -> Classified:
    """Judge a model that names one class of an image; see `primia.evaluation.evaluate.evaluate`.

    Raises:
        DataError: the test set lacks a class, or the model answers with something that is not a number.
    """
    metrics.require_every_class(test.labels.numpy(), test.classes)
    probabilities = finite(model, model.probabilities(test.images).double().cpu().numpy())
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)  # float32 sums are off by 1e-7
    labels, patients = test.labels.numpy(), test.patients.numpy()
    return Classified(
        figures={
            **common_figures(model, test, settings=settings),
            **_figures(probabilities, labels, patients, classes=model.classes, settings=settings),
            "images_per_class": dict(zip(model.classes, np.bincount(labels).tolist(), strict=True)),
            "majority_accuracy": metrics.majority_accuracy(labels),
        },
        probabilities=probabilities,
        labels=labels,
        classes=model.classes,
        patients=patients,
    )


def _figures(
    probabilities: Floats, labels: Ints, patients: Ints, *, classes: Sequence[str], settings: Evaluation
) -> dict[str, Any]:
    ends = bootstrap_intervals(probabilities, labels, patients, resamples=settings.bootstrap, seed=settings.seed)
    values = {
        "mcc": metrics.mcc(probabilities, labels),
        "accuracy": metrics.accuracy(probabilities, labels),
        "auc": metrics.auc(probabilities, labels, classes=classes),
        "brier": metrics.brier(probabilities, labels),
        "calibration_error": metrics.calibration_error(probabilities, labels),
    }
    figures: dict[str, Any] = {
        name: {"value": value, "low": float(ends[name][0]), "high": float(ends[name][1])}
        for name, value in values.items()
    }
    low, high = ends["recall"]
    figures["recall"] = {
        name: {"value": float(value), "low": float(low[c]), "high": float(high[c])}
        for c, (name, value) in enumerate(
            zip(classes, metrics.recall(probabilities, labels, classes=classes), strict=True)
        )
    }
    return figures
