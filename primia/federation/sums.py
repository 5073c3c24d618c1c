"""What the unmasked sums of all purposes share: their type, and the sentence when one cannot be."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from primia.errors import FederationError

Totals = Mapping[str, NDArray[np.int64]]


def impossible(what: str) -> FederationError:
    """The error for a sum of `what` that honest sites cannot have."""
    return FederationError(
        f"The sum of the {what} lies outside what it can be: a hospital lied, or fell silent after it was told "
        "something else; see who dropped out in rounds.jsonl, and run the same command to resume."
    )
