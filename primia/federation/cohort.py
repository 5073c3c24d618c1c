"""The hospitals of a run: who is present, who is brought back, and sums over those who stay."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from primia.errors import FederationError, PrimiaError, ProtocolError, SiteRefusal
from primia.federation import messages as m
from primia.federation.aggregate import Sum, aggregate
from primia.federation.channel import Channel, Dropped, ask
from primia.federation.checkpoint import RunFolder
from primia.federation.journal import Outcome, SessionRecord
from primia.federation.plan import Plan
from primia.federation.refusals import BudgetError
from primia.federation.released_sums import CohortRefusal
from primia.federation.rollcall import SessionError
from primia.federation.sums import Totals
from primia.federation.vectors import words_to_bytes
from primia.federation.weights import Floats
from primia.secagg.session import Purpose, Session
from primia.secagg.vector import Layout

START_DEADLINE_S = 120.0  # to import the libraries and read the images, whatever the deadline of a round

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tally:
    """A sum that was read: its parts, whose it is, and the line about its session, not yet in the journal."""

    totals: Totals
    survivors: tuple[str, ...]
    record: SessionRecord


class Cohort:
    """Asks the hospitals of one plan, leaves out those that fail, and tries to bring them back before each session."""

    def __init__(
        self, plan: Plan, *, channel: Channel, folder: RunFolder, deadline_s: float, teacher: Floats | None = None
    ) -> None:
        """`teacher` holds the weights of the plan's teacher, (parameters,), if there is one."""
        self._invitation = m.Join(plan=plan.canonical(), teacher=None if teacher is None else words_to_bytes(teacher))
        self._plan, self._channel, self._folder, self._deadline_s = plan, channel, folder, deadline_s
        self._absent: dict[str, Dropped] = {}

    def join(self, names: Sequence[str]) -> None:
        """Agree on the plan; who does not is absent."""
        requests: dict[str, m.Request] = dict.fromkeys(names, self._invitation)
        joined, lost = ask(self._channel, requests, m.Joined, step="the plan", deadline_s=START_DEADLINE_S)
        for name, answer in joined.items():
            if answer.plan != self._plan.digest():
                lost[name] = Dropped("it joined another plan; install the same version everywhere")
        self._absent = {name: why for name, why in self._absent.items() if name not in names} | lost

    def gather(self) -> None:
        """Bring back whoever is absent; a failure to come back only leaves a hospital absent."""
        absent = list(self._absent)
        for name in absent:
            self._channel.restart(name)
        if absent:
            self.join(absent)

    def sum(
        self,
        purpose: Purpose,
        round: int,
        request_of: Callable[[Session], m.MaskedRequest],
        layout: Layout,
        *,
        only: Collection[str] = (),
    ) -> Tally:
        """One sum over the hospitals that are present and stay; `only` names a cohort that must be met exactly.

        A session in which too few stay is repeated once, as a new attempt with fresh keys, by those present then.
        If hospitals refused because they gave this sum before, the repetition asks exactly the company of that time.

        Raises:
            PrimiaError: the kind of a refusal, if refusals are the cause; they are not asked twice.
            FederationError: too few hospitals stayed, twice.
        """
        without: frozenset[str] = frozenset()
        for last in (False, True):
            self.gather()
            session = self._folder.next_session(purpose, round)
            try:
                result = self._session(request_of(session), layout, only=only, without=without)
            except SessionError as failure:
                without = failure.spoilers
                self._note(failure.dropped)
                cause = _refusal_behind(failure, plan=self._plan, last=last)
                outcome: Outcome = "failed" if last or cause is not None else "repeated"
                dropped = {name: lost.reason for name, lost in failure.dropped.items()}
                self._folder.journal.add(
                    SessionRecord(purpose, round, session.attempt, outcome, (), dropped, failure.phases)
                )
                if cause is not None:
                    raise cause from failure
                if last:
                    raise FederationError(
                        f"{failure} It failed twice, so the run stops at its last finished step; "
                        "mend the hospital and run the same command to resume."
                    ) from failure
                log.warning("%s The session is repeated once.", failure)
                only = only or _company(failure, plan=self._plan)
                continue
            self._note(result.dropped)
            if result.transcript is not None:
                self._folder.keep_transcript(result.transcript)
            dropped = {name: lost.reason for name, lost in result.dropped.items()}
            if dropped:
                log.warning("%s goes on without %s", session, "; ".join(f"{n} ({why})" for n, why in dropped.items()))
            record = SessionRecord(
                purpose, round, session.attempt, "finished", result.survivors, dropped, result.phases
            )
            return Tally(layout.unpack(result.total), result.survivors, record)
        raise AssertionError("the last attempt returns or raises")

    def _session(
        self, request: m.MaskedRequest, layout: Layout, *, only: Collection[str], without: Collection[str]
    ) -> Sum:
        wanted = [name for name in self._plan.hospitals if not only or name in only]
        spoilt = Dropped("it spoilt the attempt before")
        absent = self._absent | {name: spoilt for name in without if name not in self._absent}
        return aggregate(
            self._channel,
            request,
            plan=self._plan,
            sites=[name for name in wanted if name not in absent],
            needed=only,
            absent={name: absent[name] for name in wanted if name in absent},
            size=layout.size,
            deadline_s=self._deadline_s,
        )

    def ledgers(self) -> dict[str, m.LedgerReport]:
        """What the hospitals that are present say about the privacy they spent."""
        self.gather()
        present = [name for name in self._plan.hospitals if name not in self._absent]
        requests: dict[str, m.Request] = dict.fromkeys(present, m.ReadLedger())
        reports, lost = ask(self._channel, requests, m.LedgerReport, step="the ledger", deadline_s=self._deadline_s)
        self._note(lost)
        return reports

    def _note(self, dropped: dict[str, Dropped]) -> None:
        """A hospital that refuses is alive; any other failure means that it must be brought back."""
        self._absent |= {name: lost for name, lost in dropped.items() if lost.refusal is None}


def _refusal_behind(failure: SessionError, *, plan: Plan, last: bool) -> PrimiaError | None:
    """The refusal that ends the run, if there is one.

    A decision is final: with those who decided against it, the session cannot reach its threshold. A broken message
    or another cohort than before may be mended by a second attempt, so these count when that has failed, too.
    """
    refusals = {name: lost.refusal for name, lost in failure.dropped.items() if lost.refusal is not None}
    final = [error for error in refusals.values() if not _may_pass(error)]
    if len(plan.hospitals) - len(final) >= plan.threshold and not (last and refusals):
        return None
    error = next((e for e in final if isinstance(e, BudgetError)), (final or list(refusals.values()))[0])
    if len(failure.dropped) == 1:
        return error
    return SiteRefusal(str(failure)) if isinstance(error, CohortRefusal) else type(error)(str(failure))


def _may_pass(error: PrimiaError) -> bool:
    return isinstance(error, ProtocolError | CohortRefusal) or type(error) is FederationError


def _company(failure: SessionError, *, plan: Plan) -> tuple[str, ...]:
    """The hospitals with which a sum was given before, as most of those that refuse it to others say."""
    named = [lost.refusal.cohort for lost in failure.dropped.values() if isinstance(lost.refusal, CohortRefusal)]
    usable = [cohort for cohort in named if plan.threshold <= len(cohort) and set(cohort) <= set(plan.hospitals)]
    return max(usable, key=usable.count, default=())
