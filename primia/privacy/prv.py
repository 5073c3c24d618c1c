"""The first accountant: privacy loss random variables (Gopi et al. 2021), as Opacus computes them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from primia.privacy.release import Release
from primia.privacy.renyi import quiet_orders

LARGEST_ERROR = 0.001  # of ε
_SMALLEST_ERROR = 2e-4  # the grid, and with it the time, grows with the inverse
_RELATIVE_ERROR = 1 / 200


def prv_error(epsilon: float) -> float:
    """The error of ε that `prv_epsilon` is asked for: 1/200 of it, from 0.0002 to 0.001, and above 20 1/20,000."""
    return max(min(LARGEST_ERROR, max(_SMALLEST_ERROR, _RELATIVE_ERROR * epsilon)), epsilon / 20_000)


def prv_epsilon(releases: Sequence[Release], *, delta: float, error: float) -> float | None:
    """Upper bound of ε at `delta`, at most twice `error` above the true one; None where the grid cannot hold it.

    Args:
        releases: merged, none discrete.
        delta: δ in (0, 1).
        error: of ε, see `prv_error`.
    """
    accountant = _accountant()
    accountant.history = [(r.noise_multiplier, r.sampling_rate, r.steps) for r in releases]
    # At a sampling rate of 1 it takes the logarithm of zero and rightly gets −∞; a tail that overflows ends as NaN.
    with quiet_orders(), np.errstate(all="ignore"):
        try:
            epsilon = float(accountant.get_epsilon(delta, eps_error=error))
        except (RuntimeError, ValueError):
            return None
    return None if math.isnan(epsilon) else max(0.0, epsilon)


def _accountant() -> Any:
    from opacus.accountants import PRVAccountant
    from opacus.accountants.analysis.prv import Domain
    from scipy.fft import next_fast_len

    class FastPRVAccountant(PRVAccountant):  # type: ignore[misc]
        """On a grid that is a little wider: a length with small prime factors is transformed ten times as fast."""

        def _get_domain(self, **arguments: Any) -> Any:
            domain = super()._get_domain(**arguments)
            half, mesh = next_fast_len(domain.size // 2), domain.dt
            # Zero stays the last point of the lower half, as the composition expects it.
            return Domain(-(half - 1) * mesh, half * mesh, 2 * half)

    return FastPRVAccountant()
