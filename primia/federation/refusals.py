"""A site's errors as typed refusals, and back into exceptions at the coordinator."""

from primia.errors import (
    ConfigError,
    DataError,
    FederationError,
    PrimiaError,
    PrivacyError,
    ProtocolError,
    SiteRefusal,
)
from primia.federation.messages import Refusal
from primia.federation.released_sums import CohortRefusal


class BudgetError(PrivacyError):
    """A further release would exceed the run's target epsilon, or what the owner allows for the patients' lifetime."""


# The most derived class first.
_KINDS = {
    "budget": BudgetError,
    "privacy": PrivacyError,
    "protocol": ProtocolError,
    "refusal": SiteRefusal,
    "data": DataError,
    "config": ConfigError,
    "federation": FederationError,
}


def refusal_of(error: PrimiaError) -> Refusal:
    """The message a site sends instead of an answer."""
    reason = str(error)[:2000]
    if isinstance(error, CohortRefusal):
        return Refusal(kind="cohort", reason=reason, cohort=error.cohort)
    kind = next((kind for kind, cls in _KINDS.items() if isinstance(error, cls)), "federation")
    return Refusal.model_validate({"kind": kind, "reason": reason})


def error_of(refusal: Refusal, *, site: str, step: str) -> PrimiaError:
    """The exception that a refusal stands for, naming the site."""
    sentence = f"Hospital {site} refuses {step}: {refusal.reason}"
    if refusal.kind == "cohort":
        return CohortRefusal(sentence, cohort=refusal.cohort)
    return _KINDS[refusal.kind](sentence)
