"""Figures of models on the same test patients, and paired differences between them.

Every model is judged on the same resamples of patients: what makes a patient hard then cancels in a difference, whose
interval is far narrower than the intervals of the two models suggest. Means over seeds are taken within each resample,
so that their interval covers the choice of test patients, not that of the seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from primia.config import Evaluation
from primia.evaluation.bootstrap import resampled_figures, weighted_figures
from primia.evaluation.metrics import Floats, Ints

FIGURES = ("mcc", "accuracy", "auc")
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


def scores_of(probabilities: Floats, labels: Ints, patients: Ints, *, settings: Evaluation) -> dict[str, Score]:
    """Score a model by each of `FIGURES`; equal labels, patients and settings give equal resamples.

    Args:
        probabilities: (images, classes), rows sum to one.
        labels: (images,) class indices; every class occurs.
        patients: (images,) whose image it is.
        settings: number of resamples and their seed.
    """
    values = weighted_figures(probabilities, labels, np.ones((1, len(labels))))
    resampled = resampled_figures(probabilities, labels, patients, resamples=settings.bootstrap, seed=settings.seed)
    return {name: Score(float(values[name][0]), resampled[name]) for name in FIGURES}
