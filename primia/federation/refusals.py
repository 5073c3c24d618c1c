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


class BudgetError(PrivacyError):
    """A further release would exceed the target epsilon of the run at this site."""


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
    kind = next((kind for kind, cls in _KINDS.items() if isinstance(error, cls)), "federation")
    return Refusal.model_validate({"kind": kind, "reason": str(error)[:2000]})


def error_of(refusal: Refusal, *, site: str, step: str) -> PrimiaError:
    """The exception that a refusal stands for, naming the site."""
    return _KINDS[refusal.kind](f"Hospital {site} refuses {step}: {refusal.reason}")
