"""Training where all images lie in one place: the rounds of a federation of one, without a protocol."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from primia.config import Params
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.federation.drafting import draft_plan
from primia.federation.messages import Description
from primia.federation.plan import Plan
from primia.federation.summed_statistics import PooledStatistics, pooled_statistics, statistics_values
from primia.federation.summed_validation import evaluate_values
from primia.federation.summed_validation import validation as validation_of
from primia.federation.weights import Floats, head_vector, load_head
from primia.federation.work import LocalWork
from primia.models.released import ReleasedModel
from primia.privacy.noise import SystemNoise
from primia.training.pretrain import initial_network


def train_in_one_place(
    params: Params,
    *,
    name: str,
    train: ImageSet,
    validation: ImageSet,
    on_round: Callable[[int], None] = lambda _: None,
) -> ReleasedModel:
    """Train as a hospital does in its rounds, and release the round that a federation would.

    The running average of models, the early stop and the choice of the round are those of the federation; the change
    of a round is taken as it is, and no round is undone (`federation.rollback_margin`). No differential privacy: the
    model is for comparison only.

    Args:
        params: those of an `Arm`, with privacy off.
        name: of the place; the order of the images follows from it, as it does at a hospital.
        train: all training images of the place.
        validation: all its validation images.
        on_round: called with the number of each finished round.

    Raises:
        DataError: the training diverges.
    """
    assert not params.privacy.enabled
    described = Description(
        name=name, identity=bytes(32), data="0" * 64, classes=train.classes, pixels=train.pixels, depth=train.depth
    )
    of_one = params.preprocess.model_copy(update={"hospitals": (name,)})
    params = params.model_copy(update={"preprocess": of_one})
    plan = draft_plan(params, {name: described}, privacy=None)
    network = initial_network(plan.model, plan.training, classes=plan.classes, pixels=plan.pixels, depth=plan.depth)
    work = LocalWork(plan, name=name, train=train, validation=validation)
    statistics = _statistics(plan, name, train)
    model = head_vector(network.head)
    average, released, released_round = model.astype(np.float64), model, 0
    best_round, best = 0, -2.0
    for round in range(1, plan.rounds + 1):
        result = work.train(
            model,
            mean=statistics.mean,
            std=statistics.std,
            round=round,
            noise=SystemNoise(),
            class_weights=statistics.class_weights,
        )
        model = (model.astype(np.float64) + result.delta).astype(np.float32)
        kept = plan.average if round > 1 else 0.0
        average = kept * average + (1 - kept) * model.astype(np.float64)
        validated = average.astype(np.float32)
        score = _validation_score(plan, work, validated, validation, statistics=statistics)
        on_round(round)
        if score > best or plan.release == "last":
            released, released_round = validated, round
        if score > best:
            best_round, best = round, score
        elif plan.patience is not None and round - best_round >= plan.patience:
            break
    load_head(network.head, released)
    return plan.released(network, mean=statistics.mean, std=statistics.std, round=released_round)


def _statistics(plan: Plan, name: str, train: ImageSet) -> PooledStatistics:
    return pooled_statistics(
        _totals(statistics_values(plan, train.images, train.labels, train.patients, noise=SystemNoise())),
        counted=[name],
    )


def _validation_score(
    plan: Plan, work: LocalWork, model: Floats, images: ImageSet, *, statistics: PooledStatistics
) -> float:
    logits = work.validate(model, mean=statistics.mean, std=statistics.std)
    if not torch.isfinite(logits).all():
        raise DataError(
            "The training diverged: the model answers with values that are not numbers; lower training.learning_rate "
            "in params.yaml."
        )
    values = evaluate_values(plan, logits, images.labels, images.patients, noise=SystemNoise())
    return validation_of(_totals(values)).score


def _totals(values: Mapping[str, NDArray[np.int64] | int]) -> dict[str, NDArray[np.int64]]:
    """What one site has to say, in the form in which the sum over all sites is read."""
    return {name: np.atleast_1d(np.asarray(value, dtype=np.int64)) for name, value in values.items()}


def pooled(sets: list[ImageSet]) -> ImageSet:
    """All images of several sets as one; patients of different sets are different."""
    before = np.cumsum([0, *(len(images.patient_ids) for images in sets)])
    return ImageSet(
        images=torch.cat([images.images for images in sets]),
        labels=torch.cat([images.labels for images in sets]),
        patients=torch.cat([images.patients + int(n) for images, n in zip(sets, before, strict=False)]),
        image_ids=tuple(name for images in sets for name in images.image_ids),
        patient_ids=tuple(name for images in sets for name in images.patient_ids),
        classes=sets[0].classes,
    )
