"""What every judgement of a model on the test patients says and refuses, whatever the model answers."""

from typing import Any

import numpy as np

from primia.config import Evaluation
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.evaluation.metrics import Floats
from primia.models.released import ReleasedModel


def require_fit(model: ReleasedModel, test: ImageSet) -> None:
    """Refuse a test set that the model cannot be judged on.

    Raises:
        DataError: the set is empty, or has other classes, sizes or labels than the model.
    """
    if len(test) == 0:
        raise DataError("The test set holds no image; raise preprocess.test_fraction and run dvc repro.")
    if test.classes != model.classes:
        raise DataError(
            f"The test set's classes are {', '.join(test.classes)} but the model answers in the order "
            f"{', '.join(model.classes)}; run dvc repro so that both come from the same ingest.classes."
        )
    if test.pixels != model.pixels:
        raise DataError(
            f"The test images have {test.pixels} pixels a side but the model was trained on {model.pixels}; "
            "run dvc repro so that both come from the same preprocess.pixels."
        )
    if (test.depth, test.masks) != (model.depth, model.segments):
        raise DataError(
            "The test images are prepared for another task or depth than the model's; run dvc repro so that both come "
            "from the same task and preprocess.volume."
        )


def finite(model: ReleasedModel, answers: Floats) -> Floats:
    """The answers, if all are numbers.

    Raises:
        DataError: they are not, since the training diverged.
    """
    if not np.isfinite(answers).all():
        raise DataError(
            f"The model of round {model.round} answers with values that are not numbers: its training diverged; "
            "lower the learning rate in params.yaml and train again."
        )
    return answers


def common_figures(model: ReleasedModel, test: ImageSet, *, settings: Evaluation) -> dict[str, Any]:
    """How many were judged, by what, and which model; `uncovered` is what is published beside the figures."""
    return {
        "images": len(test),
        "patients": len(np.unique(test.patients.numpy())),
        "classes": list(model.classes),
        "bootstrap": settings.bootstrap,
        "uncovered": [],
        "model_digest": model.digest(),
    }
