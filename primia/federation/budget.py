"""The privacy that a site may still spend, in a run and over all runs of its patients, and what it says about it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from primia.data.origin import Origin
from primia.federation.floors import Floors
from primia.federation.messages import LedgerReport
from primia.federation.plan import Plan
from primia.federation.refusals import BudgetError
from primia.privacy.accounting import Release, quick_epsilon
from primia.privacy.composition import completed, epsilon_of_run, epsilon_of_source, source_stays_within
from primia.privacy.former_ledger import take_over
from primia.privacy.heads import Heads
from primia.privacy.known_sources import ledger_of
from primia.privacy.ledger import Ledger
from primia.privacy.ledger_line import Entry, Group, Purpose
from primia.secagg.session import Purpose as SumPurpose
from primia.secagg.session import Session

_SLACK = 1e-3  # of epsilon: the accountant's own error bound
_LEDGER_PURPOSE: dict[SumPurpose, Purpose] = {"statistics": "statistics", "train": "train", "evaluate": "validation"}


def charges_of(plan: Plan, purpose: SumPurpose) -> list[tuple[Group, Release]]:
    """What a site charges before it answers one session: the patients that take part, and the release."""
    if plan.privacy is None:
        return []
    return [("validation" if purpose == "evaluate" else "training", plan.privacy.release(purpose))]


def epsilon_so_far(plan: Plan, *, rounds: int) -> float:
    """ε after `rounds` rounds of a plan without repetitions, by one accountant: for the curve while the run goes on.

    What was really spent only the hospitals know, who report it when the run ends.
    """
    if plan.privacy is None:
        return 0.0
    train = plan.privacy.release("train")
    trained = [plan.privacy.release("statistics"), replace(train, steps=rounds * train.steps)]
    validated = [replace(plan.privacy.release("evaluate"), steps=rounds)]
    return max(quick_epsilon(spent, delta=plan.privacy.delta) for spent in (trained, validated))


def _sessions(plan: Plan) -> dict[SumPurpose, int]:
    """How many sums of each kind a plan has."""
    return {"statistics": 1, "train": plan.rounds, "evaluate": plan.rounds}


@dataclass(frozen=True)
class Account:
    """One hospital's part in the ledger of its patients' source, which other hospitals on the machine may share."""

    hospital: str
    ledger: Ledger
    heads: Heads
    synthetic: bool

    def head(self) -> bytes:
        """The ledger's head, 32 bytes, after a look whether it was changed or rolled back."""
        self.heads.check(self.ledger)
        return bytes.fromhex(self.ledger.head())

    def check(self, plan: Plan, purpose: SumPurpose, *, floors: Floors, path: Path) -> None:
        """Refuse what would exceed the run's target, or the owner's `floors` (in the file `path`) over all runs.

        A training is refused, too, if the validation after it could not be afforded.

        Raises:
            BudgetError: one more round would spend too much; nothing is charged.
        """
        if plan.privacy is None:
            return
        charges = charges_of(plan, purpose) + (charges_of(plan, "evaluate") if purpose == "train" else [])
        planned = [Entry(release, plan.run, self.hospital, group) for group, release in charges]
        entries, whole = self.ledger.entries(), self._whole(plan)
        target, delta = plan.privacy.target_epsilon, plan.privacy.delta
        after = [*self._of_run(entries, plan), *planned]
        if epsilon_of_run(completed(after, whole), plan.run, delta=delta) > target + _SLACK:
            spent = epsilon_of_run(after, plan.run, delta=delta)
            if spent > target + _SLACK:
                raise BudgetError(f"one more round would spend epsilon {spent:.3f} of {target:g} at this hospital.")
        self._check_lifetime(self._alike(entries), planned, whole=whole, floors=floors, path=path)

    def charge(self, plan: Plan, session: Session, *, floors: Floors, path: Path) -> None:
        """Write the releases of `session` down, before any noise is drawn: what is interrupted counts as spent.

        Raises:
            BudgetError: another run spent the rest since `check`; this charge stands, and nothing may be released.
        """
        charges = charges_of(plan, session.purpose)
        for group, release in charges:
            assert plan.privacy is not None
            head = self.ledger.charge(
                run=plan.run,
                hospital=self.hospital,
                group=group,
                purpose=_LEDGER_PURPOSE[session.purpose],
                round=session.round,
                attempt=session.attempt,
                release=release,
                delta=plan.privacy.delta,
                synthetic=self.synthetic,
            )
            self.heads.keep(self.ledger, head)
        if charges:
            self._check_lifetime(
                self._alike(self.ledger.entries()), [], whole=self._whole(plan), floors=floors, path=path
            )

    def report(self, plan: Plan) -> LedgerReport:
        """What was charged to `plan`'s run and to all runs, and this run's lines."""
        if plan.privacy is None:
            return LedgerReport(epsilon=0.0, steps=0, attempts=0)
        entries, delta = self.ledger.entries(), plan.privacy.delta
        mine = self._of_run(entries, plan)
        trained = [entry.release.steps for entry in mine if entry.purpose == "train"]
        return LedgerReport(
            epsilon=epsilon_of_run(mine, plan.run, delta=delta),
            steps=sum(trained),
            attempts=len(trained),
            epsilon_all_runs=epsilon_of_source(self._alike(entries), delta=delta),
            text=self.ledger.lines(run=plan.run, hospital=self.hospital),
        )

    def _whole(self, plan: Plan) -> list[Entry]:
        """What this hospital will have released when the plan went through without a repetition."""
        return [
            Entry(replace(release, steps=times * release.steps), plan.run, self.hospital, group)
            for purpose, times in _sessions(plan).items()
            for group, release in charges_of(plan, purpose)
        ]

    def _of_run(self, entries: Sequence[Entry], plan: Plan) -> list[Entry]:
        """This hospital's entries in the run, and those of which nobody knows whose they are."""
        return [e for e in entries if e.run is None or (e.run, e.hospital) == (plan.run, self.hospital)]

    def _alike(self, entries: Sequence[Entry]) -> list[Entry]:
        """Phantoms and patients are never counted together."""
        return [e for e in entries if e.run is None or e.synthetic == self.synthetic]

    def _check_lifetime(
        self, entries: Sequence[Entry], planned: Sequence[Entry], *, whole: Sequence[Entry], floors: Floors, path: Path
    ) -> None:
        limit, delta = floors.lifetime_epsilon, floors.lifetime_delta
        after = [*entries, *planned]
        if self.synthetic or any(
            source_stays_within(upper, limit + _SLACK, delta=delta) for upper in (completed(after, whole), after)
        ):
            return
        spent = epsilon_of_source(entries, delta=delta)
        raise BudgetError(
            f"one more round would spend epsilon {epsilon_of_source(after, delta=delta):.3f} of the "
            f"{limit:g} (at delta {delta:g}) that this hospital's patients may spend in all runs together; "
            f"{spent:.3f} is spent, {max(limit - spent, 0.0):.3f} is left, and only the hospital's owner can change "
            f"that, by lifetime_epsilon in {path}."
        )


def open_account(hospital: str, origin: Origin, *, ledgers: Path, state: Path) -> Account:
    """The account of a hospital whose sets come from `origin`; `state` is the hospital's folder.

    A ledger of an earlier version in `state` is taken over; see `take_over`.

    Raises:
        PrivacyError: the ledger was changed, rolled back, or is of another source or a newer version.
    """
    ledger, heads = ledger_of(origin, ledgers), Heads(state)
    heads.check(ledger)
    head = take_over(state / "ledger.jsonl", ledger=ledger, hospital=hospital)
    if head is not None:
        heads.keep(ledger, head)
    return Account(hospital=hospital, ledger=ledger, heads=heads, synthetic=origin.synthetic)
