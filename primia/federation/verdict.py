"""What becomes of a validated round: its model is kept or undone, and the run goes on or stops."""

from dataclasses import replace

from primia.federation.checkpoint import Progress, RoundRecord
from primia.federation.plan import Plan

_LIVES = 2  # rounds from one model; if the second falls, too, chance is not the reason


def judged(plan: Plan, progress: Progress, record: RoundRecord) -> Progress:
    """The progress after a round was validated as `record` says.

    A round that falls more than `rollback_margin` below the best validation score is undone: weights, average and
    server state are again what it started from. What it cost, privacy included, stays spent. The next round asks the
    same hospitals about that model, since the difference of two sums over different ones would be a hospital's own
    change; fresh noise makes that needless with differential privacy.

    The round to release is the last that is not undone, or the one with the best validation score, as the plan says.
    """
    assert progress.latest is not None
    best = max((earlier.validation_score for earlier in progress.records), default=None)
    after = replace(progress, records=(*progress.records, record), before=None, latest=None)
    fell = (
        best is not None and plan.rollback_margin is not None and record.validation_score < best - plan.rollback_margin
    )
    if fell:
        assert progress.before is not None
        cohort = progress.latest.participants if plan.privacy is None else ()
        return replace(after, model=progress.before, undone=progress.undone + 1, cohort=cohort)
    after = replace(after, undone=0, cohort=())
    if best is None or record.validation_score > best or plan.release == "last":
        return replace(after, released=progress.model.released, released_round=record.round)
    return after


def reason_to_stop(plan: Plan, progress: Progress) -> str | None:
    """Why no further round should be trained, or None; asked between rounds."""
    if progress.undone >= _LIVES:
        return (
            f"rounds {progress.trained - 1} and {progress.trained} fell more than federation.rollback_margin "
            f"({plan.rollback_margin:g}) below the best validation score; "
            f"the model of round {progress.released_round} is kept"
        )
    waited = _rounds_since_the_best(progress)
    if plan.patience is not None and progress.trained == len(progress.records) and waited >= plan.patience:
        return (
            f"the validation score did not improve for {waited} rounds (federation.patience is {plan.patience}); "
            f"the model of round {progress.released_round} is kept"
        )
    return None


def _rounds_since_the_best(progress: Progress) -> int:
    figures = [record.validation_score for record in progress.records]
    return len(figures) - 1 - figures.index(max(figures)) if figures else 0
