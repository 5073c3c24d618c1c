"""The privacy that a site may still spend in a run, and what it says about it."""

import functools

from primia.federation.messages import LedgerReport
from primia.federation.plan import Plan, PrivacyPlan
from primia.federation.refusals import BudgetError
from primia.privacy.accounting import Release, epsilon_of
from primia.privacy.ledger import Ledger
from primia.secagg.session import Session

_SLACK = 1e-3  # of epsilon: the accountant's own error bound


def check_budget(ledger: Ledger, plan: Plan) -> None:
    """Refuse a further release that would exceed the run's target.

    Raises:
        BudgetError: one more round would spend too much; nothing is charged.
    """
    if plan.privacy is None:
        return
    planned = (*ledger.releases(plan.run), _release(plan.privacy))
    after = _epsilon(planned, plan.privacy.delta)
    if after > plan.privacy.target_epsilon + _SLACK:
        raise BudgetError(
            f"one more round would spend epsilon {after:.3f} of {plan.privacy.target_epsilon:g} at this hospital."
        )


def charge(ledger: Ledger, plan: Plan, session: Session) -> None:
    """Write the release of `session` down, before any noise is drawn: what is interrupted counts as spent."""
    if plan.privacy is None:
        return
    ledger.charge(
        run=plan.run,
        round=session.round,
        attempt=session.attempt,
        release=_release(plan.privacy),
        delta=plan.privacy.delta,
        synthetic=plan.synthetic,
    )


def report(ledger: Ledger, plan: Plan, *, text: bool) -> LedgerReport:
    """What was spent on `plan`'s run, and with `text` on all runs, with the ledger's lines."""
    privacy, charged = plan.privacy, tuple(ledger.releases(plan.run))
    said = LedgerReport(
        epsilon=_epsilon(charged, privacy.delta) if privacy else 0.0,
        steps=sum(release.steps for release in charged),
        attempts=len(charged),
    )
    if not text or privacy is None:
        return said
    lines = ledger.path.read_text(errors="replace") if ledger.path.exists() else ""
    everything = _epsilon(tuple(ledger.releases()), privacy.delta)
    return said.model_copy(update={"epsilon_all_runs": everything, "text": lines})


@functools.cache
def _epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """Spent epsilon; kept, since the accountant takes a second and is asked about the same releases twice a round."""
    return epsilon_of(releases, delta=delta)


def _release(privacy: PrivacyPlan) -> Release:
    return Release(
        sampling_rate=privacy.sampling_rate,
        noise_multiplier=privacy.noise_multiplier,
        steps=privacy.local_steps,
    )
