"""Figures of models on the same test patients, and paired differences between them.

Every model is judged on the same resamples of patients: what makes a patient hard then cancels in a difference, whose
interval is far narrower than the intervals of the two models suggest. Means over seeds are taken within each resample,
so that their interval covers the choice of test patients, not that of the seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from primia.config import Evaluation
from primia.evaluation.bootstrap import resampled_figures, resampled_means, weighted_figures
from primia.evaluation.metrics import Floats, Ints

_TAIL = 0.025


@dataclass(frozen=True)
class Score:
    """One figure on all test images, and in every resample of patients, (resamples,)."""

    value: float
    resampled: Floats

    def __sub__(self, other: "Score") -> "Score":
        """The paired difference; both must stem from the same resamples."""
        return Score(self.value - other.value, self.resampled - other.resampled)

    def interval(self) -> dict[str, float]:
        """The value with the ends of its 95 % percentile interval (Efron 1979)."""
        low, high = np.nanquantile(self.resampled, (_TAIL, 1 - _TAIL))
        return {"value": self.value, "low": float(low), "high": float(high)}


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean over models, within each resample."""
    return Score(
        float(np.mean([score.value for score in scores])), np.mean([score.resampled for score in scores], axis=0)
    )


def figures_of(labels: Ints) -> tuple[str, ...]:
    """The figures that models are compared by, the one that decides first; `labels` as for `scores_of`."""
    return ("dice",) if labels.ndim > 1 else ("mcc", "accuracy", "auc")


def scores_of(answers: Floats, labels: Ints, patients: Ints, *, settings: Evaluation) -> dict[str, Score]:
    """Score a model by each of `figures_of`; equal labels, patients and settings give equal resamples.

    Args:
        answers: (images, classes) probabilities whose rows sum to one; where labels are masks, (patients, structures)
            Dice in the order of the patients' numbers, every structure in some patient, NaN where there is none.
        labels: (images,) class indices, of which every one occurs, or (images, *spatial) masks.
        patients: (images,) whose image it is.
        settings: number of resamples and their seed.
    """
    if labels.ndim > 1:
        resampled = resampled_means(answers, resamples=settings.bootstrap, seed=settings.seed)
        return {"dice": Score(float(np.nanmean(answers, axis=0).mean()), resampled.mean(axis=1))}
    values = weighted_figures(answers, labels, np.ones((1, len(labels))))
    figures = resampled_figures(answers, labels, patients, resamples=settings.bootstrap, seed=settings.seed)
    return {name: Score(float(values[name][0]), figures[name]) for name in figures_of(labels)}
