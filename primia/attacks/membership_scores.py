"""What an attacker computes from a model's confidence in images whose membership is asked for: LiRA and RMIA."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

GAMMA = 2.0  # how much likelier than others an image must be made; Zarifzadeh et al. 2024 choose between 1 and 2
OFFLINE = 0.3  # their a, of models that generalise well: how far below the average a model is that did not see an image

_LEAST_LOSS = 1e-300  # in nats; a logit of 690
_BATCH = 64


@dataclass(frozen=True)
class Scores:
    """One score per patient, of models that were attacked.

    Attributes:
        member: (patients,) bool, whether the attacked model was trained on a patient.
        lira: (patients,) float64, larger for members, like `rmia`.
        rmia: (patients,) float64.
    """

    member: Tensor
    lira: Tensor
    rmia: Tensor


def joined(scores: Sequence[Scores]) -> Scores:
    """Scores of several models, each for other patients."""
    return Scores(*(torch.cat([getattr(each, name) for each in scores]) for name in ("member", "lira", "rmia")))


def confidence_of(head: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Confidence of a model in each of some images, as for `confidence`; inputs are what the head sees."""
    head.eval()
    with torch.no_grad():
        logits = torch.cat([head(batch.float()).float() for batch in torch.split(inputs, _BATCH)])
    return confidence(logits, labels)


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """How sure a model is of the truth: log(p / (1 - p)) for p = e^-loss (Carlini et al. 2022, section IV.C).

    With one label per image p is the probability of the true class; with a label per pixel the loss is the mean
    cross-entropy over the image.

    Args:
        logits: (n, classes) or (n, classes, h, w).
        labels: (n,) or (n, h, w) int64.

    Returns:
        (n,) float64, without bounds.
    """
    logits, place = logits.double(), labels.unsqueeze(1)
    margin = logits.gather(1, place).squeeze(1) - logits.scatter(1, place, -torch.inf).logsumexp(1)
    # Not via the logarithm of a probability near 1, in which memorised images would all look alike.
    loss = functional.softplus(-margin, threshold=50).view(len(labels), -1).mean(1).clamp_min(_LEAST_LOSS)
    return -loss - torch.log(-torch.expm1(-loss))


def lira(target: Tensor, references: Tensor) -> Tensor:
    """Likelihood ratio attack, offline, fixed variance (Carlini et al. 2022, section VI.A and equation 4).

    How many deviations the target's confidence lies above that of models that did not see the image. The published
    score is the normal distribution function of it, which orders images alike but rounds to 1 for many.

    Args:
        target: (n,) confidence of the attacked model.
        references: (references, n) confidence of at least two models, none of which saw the images.

    Returns:
        (n,) scores, larger for members.
    """
    assert len(references) >= 2 and bool(target.isfinite().all() and references.isfinite().all())
    expected = references.mean(0)
    freedom = (len(references) - 1) * references.shape[1]
    return (target - expected) / ((references - expected).square().sum() / freedom).sqrt()


def rmia(
    target: Tensor, references: Tensor, *, population_target: Tensor, population_references: Tensor, out: Tensor
) -> Tensor:
    """Robust membership inference attack, offline (Zarifzadeh et al. 2024, equations 3, 4 and 10).

    Share of the population's images against which the target makes an image at least `GAMMA` times as likely as
    models do on average.

    Args:
        target: (n,) confidence of the attacked model.
        references: (references, n) confidence of models that did not see the images.
        population_target: (population,) confidence of the attacked model in images that it did not see.
        population_references: (references, population).
        out: (references, population) bool, whether a reference model did not see an image; somewhere for each image.

    Returns:
        (n,) scores in [0, 1], larger for members.
    """
    assert bool(out.any(0).all())
    seen_out = torch.where(out, population_references.sigmoid(), 0).sum(0) / out.sum(0)
    population = population_target.sigmoid() / _average(seen_out)
    ratio = target.sigmoid() / _average(references.sigmoid().mean(0))
    return (ratio[:, None] >= GAMMA * population[None, :]).double().mean(1)


def by_patient(scores: Tensor, patients: Tensor) -> Tensor:
    """Mean score of each patient's images, in the order of the patients' numbers; both arguments (images,)."""
    occurring, place, count = torch.unique(patients, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(occurring), dtype=torch.float64)
    return sums.index_add_(0, place, scores.double()).div_(count)


def _average(outside: Tensor) -> Tensor:
    """Mean probability over models that did and did not see an image, from that of the latter."""
    return ((1 + OFFLINE) * outside + (1 - OFFLINE)) / 2
