"""How well scores tell members from others: the curve of true against false positives, with exact intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from primia.attacks.bounds import clopper_pearson

Floats = NDArray[np.float64]

POINTS = 200  # of a curve for a plot
RATES = (0.1, 0.05, 0.01)  # false-positive rates to decide at, the most informative last
_LET_THROUGH = 10  # others, by whom a rate can be told; fewer leave it uncertain by more than a factor of three
_RESOLVED = 3  # others whom a rate lets through, or it is not reported


def operating_rate(others: int) -> float:
    """The false-positive rate to decide at: the smallest of `RATES` at which ten others come through, or the largest.

    It depends on nothing but how many others there are. An attacker who must let few others through is the more
    telling, but the fewer they are, the less is known of the rate at which others come through, and the exact interval
    of that rate is what a sound release is granted: at 1 % of 150 others it reaches to five times as much.
    """
    return min((rate for rate in RATES if rate * others >= _LET_THROUGH), default=RATES[0])


def let_through(rate: float, others: int) -> int:
    """How many others a false-positive rate lets through, rounded down."""
    return int(rate * others + 1e-9)


def caught(members: Floats, others: Floats, *, passing: int) -> int:
    """How many members score above all but `passing` others."""
    threshold = np.sort(others)[::-1][passing]
    return int((members > threshold).sum())


def false_positive_interval(passing: int, others: int, *, confidence: float) -> tuple[float, float]:
    """What the true false-positive rate of the threshold of `caught` may be.

    The chance of one more of the others to score above the (passing + 1)-th largest of them has the distribution
    Beta(passing + 1, others - passing), whose quantile is the upper end of Clopper and Pearson's interval. Ties only
    lower it. The lower end is that of Clopper and Pearson, which is a little low.
    """
    return clopper_pearson(passing, others, confidence=confidence)


@dataclass(frozen=True)
class Roc:
    """Scores of members and of others, one per patient, and what they show at a confidence."""

    members: Floats
    others: Floats
    confidence: float

    def to_json(self) -> dict[str, Any]:
        """Figures of the curve.

        auc, auc_low and auc_high; balanced_accuracy at the threshold that is best in hindsight; tpr_at_1_percent and
        tpr_at_0.1_percent, each with rate, low and high, or None where so small a rate cannot be resolved.
        """
        auc, low, high = self.area()
        fpr, tpr = self._corners()
        return {
            "auc": auc,
            "auc_low": low,
            "auc_high": high,
            "balanced_accuracy": float((1 + (tpr - fpr).max()) / 2),
            "tpr_at_1_percent": self.true_positives(0.01),
            "tpr_at_0.1_percent": self.true_positives(0.001),
        }

    def area(self) -> tuple[float, float, float]:
        """Area under the curve, and its interval.

        That is Clopper and Pearson's for as many independent trials as have the variance of DeLong et al. 1988 (Korn
        and Graubard 1998), so that it stays within [0, 1]; without any mistake, for the smaller group.
        """
        above, below = _shares_below(self.members, self.others), 1 - _shares_below(self.others, self.members)
        auc, smaller = float(above.mean()), min(len(above), len(below))
        variance = float(above.var(ddof=1)) / len(above) + float(below.var(ddof=1)) / len(below)
        trials = auc * (1 - auc) / variance if variance > 0 else smaller
        return auc, *clopper_pearson(auc * trials, trials, confidence=self.confidence)

    def true_positives(self, rate: float) -> dict[str, float] | None:
        """Share of members above the threshold at a false-positive rate; None if the others are too few for it."""
        passing = let_through(rate, len(self.others))
        if passing < _RESOLVED:
            return None
        hits = caught(self.members, self.others, passing=passing)
        low, high = clopper_pearson(hits, len(self.members), confidence=self.confidence)
        return {"rate": hits / len(self.members), "low": low, "high": high}

    def curve(self) -> tuple[Floats, Floats]:
        """False- and true-positive rates of its corners, at most `POINTS` of them, densest where few others pass."""
        fpr, tpr = self._corners()
        if len(fpr) > POINTS:
            kept = np.unique(np.geomspace(1, len(fpr), POINTS).round().astype(int)) - 1
            fpr, tpr = fpr[kept], tpr[kept]
        return fpr, tpr

    def _corners(self) -> tuple[Floats, Floats]:
        from sklearn.metrics import roc_curve

        truth = np.repeat([1, 0], [len(self.members), len(self.others)])
        fpr, tpr, _ = roc_curve(truth, np.concatenate([self.members, self.others]))
        return fpr, tpr


def _shares_below(scores: Floats, among: Floats) -> Floats:
    """Of each score the share of `among` that is smaller, equal ones counting half."""
    ordered = np.sort(among)
    places = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return places / (2 * len(among))
