"""What the sums of all purposes share: their types, numbers to add up, and the sentence when a sum cannot be."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.errors import FederationError
from primia.federation.plan import Plan

Totals = Mapping[str, NDArray[np.int64]]
Values = dict[str, NDArray[np.int64] | int]  # what one site adds

_LARGEST_LOGIT = 1e30


def as_numbers(logits: Tensor) -> Tensor:
    """Finite float64: no image may make the difference between an answer and an error."""
    return torch.nan_to_num(logits.to(torch.float64), nan=0.0, posinf=_LARGEST_LOGIT, neginf=-_LARGEST_LOGIT)


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
