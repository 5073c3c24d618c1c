"""A released model on the test patients, whatever it answers: classes of images or masks of structures."""

from pathlib import Path
from typing import Any, Protocol

from primia.config import Evaluation
from primia.data.image_set import ImageSet
from primia.evaluation.classified import judge_classes
from primia.evaluation.common import require_fit
from primia.evaluation.metrics import Floats
from primia.evaluation.segmented import judge_masks
from primia.models.released import ReleasedModel


class Judgement(Protocol):
    """What a model is worth on the test patients; `figures` is the content of metrics.json."""

    @property
    def figures(self) -> dict[str, Any]:
        """Every figure, with 95 % intervals where there are some."""

    @property
    def answers(self) -> Floats:
        """What models can be compared by: (images, classes) probabilities, or (patients, structures) Dice."""

    def write(self, folder: Path) -> None:
        """Write metrics.json and what the pictures are made of; `folder` is replaced as a whole or not at all."""


def evaluate(model: ReleasedModel, test: ImageSet, *, settings: Evaluation, synthetic: bool = False) -> Judgement:
    """Judge `model` on the test patients.

    Images of them are kept for the report only if they are `synthetic`, or agreed to it (`settings.pictures`).

    Raises:
        DataError: the test set is empty, lacks a class, has other classes or sizes than the model, or the model
            answers with something that is not a number.
    """
    require_fit(model, test)
    if model.segments:
        return judge_masks(model, test, settings=settings, synthetic=synthetic)
    return judge_classes(model, test, settings=settings)
