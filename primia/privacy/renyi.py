"""Rényi differential privacy of the subsampled Gaussian: looser than the two accountants, and never beyond its grid."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from primia.privacy.release import Release

_HIGH_ORDERS = (80, 96, 128, 192, 256, 384, 512)  # beside Opacus' own; what costs little needs them


def renyi_bound(releases: Sequence[Release], *, delta: float) -> float:
    """Upper bound of ε at `delta` (Mironov, Talwar & Zhang 2019, converted as in Balle et al. 2020, theorem 21).

    Args:
        releases: none discrete.
        delta: δ in (0, 1).
    """
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = [(r.noise_multiplier, r.sampling_rate, r.steps) for r in releases]
    with quiet_orders():
        orders = [*RDPAccountant.DEFAULT_ALPHAS, *_HIGH_ORDERS]
        return max(0.0, float(accountant.get_epsilon(delta, alphas=orders)))


@contextmanager
def quiet_orders() -> Iterator[None]:
    """Silence the remark that a Rényi bound could be tighter with other orders."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order is the")
        yield
