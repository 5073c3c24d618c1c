"""A trained arm on the test patients: from its model to what is kept of it."""

from primia.comparison.outcome import Outcome
from primia.config import Evaluation
from primia.data.image_set import ImageSet
from primia.evaluation.evaluate import evaluate
from primia.models.released import ReleasedModel


def judge(
    model: ReleasedModel,
    test: ImageSet,
    *,
    settings: Evaluation,
    seconds: float,
    epsilon: float | None = None,
) -> Outcome:
    """Let `model` answer on the test patients as the evaluation does.

    Raises:
        DataError: what the evaluation has to say against the model or the test set.
    """
    judged = evaluate(model, test, settings=settings)
    return Outcome(judged.answers, round=model.round, epsilon=epsilon, seconds=seconds)
