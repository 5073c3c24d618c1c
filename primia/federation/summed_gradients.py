"""The sum of a training round whose noise is distributed: clipped gradients on a grid, each with a share of the noise.

A hospital's part is `NoiseShare.words` of its sum of clipped gradients; see docs/adr/0008-distributed-noise.md.
"""

import numpy as np
from numpy.typing import NDArray

from primia.federation.plan import Plan
from primia.federation.sums import Totals, impossible
from primia.secagg.vector import SIGNED_WORD, Layout, Part
from primia.training.objective import learning_rate_of


def gradient_layout(parameters: int) -> Layout:
    """Sum of the patients' clipped gradients in steps of the grid."""
    return Layout((Part("gradient", parameters, SIGNED_WORD, signed=True),))


def gradient_change(plan: Plan, totals: Totals, *, sites: int, round: int) -> NDArray[np.float64]:
    """One step of gradient descent by the sum over `sites`, divided by the batch expected there, (parameters,)."""
    privacy, gradient = plan.privacy, totals["gradient"]
    assert privacy is not None
    rate = learning_rate_of(privacy.learning_rate, plan.training.schedule, round=round, rounds=plan.rounds)
    grid = plan.noise_share(len(gradient)).grid
    return gradient.astype(np.float64) * (-rate * grid / (privacy.expected_batch * sites))


def check_gradients(totals: Totals) -> None:
    """Raise `FederationError` for a sum that cannot be one of clipped gradients and their noise.

    Those stay near zero, while masks that do not cancel leave values all over the 32 bits, 2^30 from zero on average.
    """
    if float(np.abs(totals["gradient"]).mean()) > SIGNED_WORD / 4:
        raise impossible("gradients")
