"""The sums of a training round: the weighted change of the model, and what is said about it.

Losses become integers in steps of 2^-8.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.federation.plan import Plan
from primia.federation.summed_statistics import PooledStatistics
from primia.federation.sums import Totals, impossible
from primia.secagg.vector import Layout, Part, share_of_word

LOSS_STEPS = 2**8
LARGEST_LOSS = 32.0  # of one image; a network this wrong needs no finer figure
_WORD = 32


@dataclass(frozen=True)
class WeightBound:
    """Public bounds of the weights in a round: of their sum, and of a site that the statistics did not count."""

    total: int
    spare: int


def weight_bound(plan: Plan, statistics: PooledStatistics) -> WeightBound:
    """The statistics say what the counted sites weigh together; the others share what is left of a 32-bit sum."""
    hospitals = len(plan.hospitals)
    if plan.weights == "equal":
        return WeightBound(total=hospitals, spare=1)
    missing = hospitals - len(statistics.counted)
    spare = max((1 << (_WORD - plan.secure_aggregation.bits)) - statistics.images, 0) // missing if missing else 0
    return WeightBound(total=statistics.images + missing * spare, spare=spare)


def train_layout(plan: Plan, *, parameters: int, total_weight: int) -> Layout:
    """Weighted integer change of every weight, and what is said about it.

    These are the weight, the clipped entries, whether the change was scaled down to the norm bound, and, without
    differential privacy (which does not cover it), the weighted training loss.

    Raises:
        ConfigError: the sum could leave 32 bits.
    """
    plan.quantiser.check_headroom(total_weight)
    share = share_of_word(len(plan.hospitals))
    return Layout(
        (
            Part("delta", parameters, total_weight * plan.quantiser.levels, signed=True),
            Part("weight", 1, total_weight),
            Part("clipped", 1, share),
            Part("shrunk", 1, 1),
            Part("loss", 1 if plan.privacy is None else 0, share),
        )
    )


def weighted_loss(plan: Plan, loss: float, *, weight: int) -> NDArray[np.int64]:
    """One site's training loss times its weight, (1,); (0,) with differential privacy."""
    if plan.privacy is not None:
        return np.zeros(0, dtype=np.int64)
    steps = round(min(max(0.0, loss), LARGEST_LOSS) * weight * LOSS_STEPS)
    return np.array([min(steps, share_of_word(len(plan.hospitals)))], dtype=np.int64)


def mean_loss(totals: Totals, *, weight: int) -> float | None:
    """Mean training loss per image over all sites; None with differential privacy."""
    return int(totals["loss"][0]) / LOSS_STEPS / weight if len(totals["loss"]) else None


def check_training(plan: Plan, totals: Totals, *, sites: int, total_weight: int) -> None:
    """Raise `FederationError` for a sum of changes that `sites` honest sites cannot have."""
    weight, levels = int(totals["weight"][0]), plan.quantiser.levels
    delta = totals["delta"]
    if not (
        0 <= weight <= total_weight
        and max(int(delta.max(initial=0)), -int(delta.min(initial=0))) <= weight * levels
        and int(totals["clipped"][0]) <= sites * len(delta)
        and int(totals["shrunk"][0]) <= sites
        and all(int(loss) <= math.ceil(LARGEST_LOSS * LOSS_STEPS) * weight + sites for loss in totals["loss"])
    ):
        raise impossible("changes")
