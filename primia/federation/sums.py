"""What the unmasked sums of all purposes share: their types, and the sentence when one cannot be."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from primia.errors import FederationError
from primia.federation.plan import Plan

Totals = Mapping[str, NDArray[np.int64]]
Values = dict[str, NDArray[np.int64] | int]  # what one site adds


def impossible(what: str) -> FederationError:
    """The error for a sum of `what` that honest sites cannot have."""
    return FederationError(
        f"The sum of the {what} lies outside what it can be: a hospital lied, or fell silent after it was told "
        "something else; see who dropped out in rounds.jsonl, and run the same command to resume."
    )


def most_patients(plan: Plan, sites: int) -> int:
    """More patients than `sites` hospitals of a private plan hold; masks that do not cancel mostly give more."""
    assert plan.privacy is not None
    return 100 * plan.privacy.site_population * sites
