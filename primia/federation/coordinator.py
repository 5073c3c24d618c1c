"""The coordinator: a state machine of statistics, then rounds of training and validation, over any channel.

It sees sums only. It draws no noise, makes no keys, and knows neither files nor counts of a single site.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from primia.errors import FederationError
from primia.federation import messages as m
from primia.federation.aggregate import aggregate
from primia.federation.channel import Channel, UnavailableError, exchange
from primia.federation.checkpoint import Progress, RoundRecord, RunFolder
from primia.federation.plan import Plan
from primia.federation.refusals import BudgetError
from primia.federation.tally import (
    PooledStatistics,
    Totals,
    evaluate_layout,
    pooled_statistics,
    statistics_layout,
    train_layout,
    validation,
)
from primia.federation.weights import head_vector, load_head, vector_digest
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.secagg.session import Purpose, Session
from primia.secagg.vector import Layout

START_DEADLINE_S = 120.0  # to import the libraries and read the images, whatever the deadline of a round

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FederationResult:
    """A finished run.

    `model` is the released model of the round with the best pooled validation MCC; `digest` is the SHA-256 of the
    global weights after the last round; `stopped` says why the run ended before its last round, or is None.
    `ledgers` are the sites' own words about the privacy they spent. `seconds` adds up all rounds.
    """

    plan: Plan
    model: ReleasedModel
    records: tuple[RoundRecord, ...]
    ledgers: dict[str, m.LedgerReport]
    digest: str
    seconds: float
    stopped: str | None


class Coordinator:
    """Runs one plan from where its folder says it is to its end."""

    def __init__(
        self,
        plan: Plan,
        *,
        channel: Channel,
        folder: RunFolder,
        deadline_s: float,
        on_round: Callable[[RoundRecord], None] | None = None,
        on_result: Callable[[FederationResult], None] | None = None,
    ) -> None:
        self._plan, self._channel, self._folder = plan, channel, folder
        self._deadline_s, self._on_round, self._on_result = deadline_s, on_round, on_result
        self._network = build_network(
            plan.architecture, classes=len(plan.classes), pixels=plan.pixels, seed=plan.model_seed
        )

    def run(self) -> FederationResult:
        """Run all rounds that are left.

        Raises:
            FederationError: a site refuses, or fails twice in one round; the run can be resumed.
        """
        if not self._plan.masked:
            log.warning(
                "SECURE AGGREGATION IS OFF (secure_aggregation.scheme: none): the coordinator sees the update of "
                "every single hospital in clear. Never use this with patients' images."
            )
        self._join(list(self._plan.hospitals))
        progress, stopped = self._folder.load() or self._begin(), None
        while len(progress.records) < self._plan.rounds:
            if progress.trained == len(progress.records):
                try:
                    progress = self._train(progress)
                except BudgetError as error:
                    # Repeated attempts were charged, too: the budget, not the number of rounds, is what counts.
                    if not progress.records:
                        raise
                    stopped = str(error)
                    log.warning("the run ends after round %d of %d: %s", progress.trained, self._plan.rounds, error)
                    break
                self._folder.save(progress)
            progress = self._validate(progress)
            self._folder.save(progress)
            if self._on_round is not None:
                self._on_round(progress.records[-1])
        result = self._result(progress, stopped)
        # Only a model that is safe may end the run: a crash before that resumes here and charges nothing again.
        if self._on_result is not None:
            self._on_result(result)
        self._folder.finish(progress.records)
        return result

    def _join(self, names: Sequence[str]) -> None:
        digest = self._plan.digest()
        requests: dict[str, m.Request] = dict.fromkeys(names, m.Join(plan=self._plan.canonical()))
        joined = exchange(self._channel, requests, m.Joined, step="the plan", deadline_s=START_DEADLINE_S)
        wrong = [name for name, answer in joined.items() if answer.plan != digest]
        if wrong:
            raise FederationError(f"Hospital {wrong[0]} joined another plan; install the same version everywhere.")

    def _begin(self) -> Progress:
        digest = self._plan.digest()
        totals = self._sum(
            "statistics", 0, lambda s: m.Statistics(session=s, plan=digest), statistics_layout(self._plan)
        )
        head = head_vector(self._network.head)
        progress = Progress(statistics=pooled_statistics(totals), head=head, average=head.astype(np.float64), best=head)
        self._folder.save(progress)
        return progress

    def _total_weight(self, statistics: PooledStatistics) -> int:
        return statistics.images if self._plan.weights == "images" else len(self._plan.hospitals)

    def _train(self, progress: Progress) -> Progress:
        started, bytes_before, round = time.monotonic(), self._channel.bytes_received(), progress.trained + 1
        plan, weight = self._plan, self._total_weight(progress.statistics)
        layout = train_layout(plan, parameters=len(progress.head), total_weight=weight)

        def request(session: Session) -> m.Train:
            return m.Train(
                session=session,
                plan=plan.digest(),
                model=m.words_to_bytes(progress.head),
                model_digest=vector_digest(progress.head),
                mean=progress.statistics.mean,
                std=progress.statistics.std,
                total_weight=weight,
            )

        totals = self._sum("train", round, request, layout)
        if int(totals["weight"][0]) != weight:
            raise FederationError(
                f"The weights of round {round} add up to {int(totals['weight'][0])} instead of {weight}: a hospital "
                "changed its images during the run; start a new run."
            )
        mean_delta = plan.quantiser.mean(totals["delta"], weight)
        head = (progress.head.astype(np.float64) + mean_delta).astype(np.float32)
        kept = plan.average if round > 1 else 0.0  # the average begins at the first trained model
        return replace(
            progress,
            head=head,
            average=kept * progress.average + (1 - kept) * head.astype(np.float64),
            trained=round,
            clipped=int(totals["clipped"][0]) / (len(head) * len(plan.hospitals)),
            spent_s=time.monotonic() - started,
            spent_bytes=self._channel.bytes_received() - bytes_before,
        )

    def _validate(self, progress: Progress) -> Progress:
        started, bytes_before, round = time.monotonic(), self._channel.bytes_received(), progress.trained
        plan, released = self._plan, progress.average.astype(np.float32)

        def request(session: Session) -> m.Evaluate:
            return m.Evaluate(
                session=session,
                plan=plan.digest(),
                model=m.words_to_bytes(released),
                model_digest=vector_digest(released),
                mean=progress.statistics.mean,
                std=progress.statistics.std,
            )

        figures = validation(self._sum("evaluate", round, request, evaluate_layout(plan)))
        ledgers = self._ledgers(text=False)
        received = self._channel.bytes_received() - bytes_before + progress.spent_bytes
        record = RoundRecord(
            round=round,
            validation_mcc=figures.mcc,
            validation_accuracy=figures.accuracy,
            validation_loss=figures.loss,
            epsilon=max(report.epsilon for report in ledgers.values()),
            clipped_fraction=progress.clipped,
            seconds=time.monotonic() - started + progress.spent_s,
            bytes_up_per_site=received // len(plan.hospitals),
            participants=len(plan.hospitals),
        )
        earlier = max((r.validation_mcc for r in progress.records), default=-2.0)
        progress = replace(progress, records=(*progress.records, record))
        if record.validation_mcc > earlier:
            progress = replace(progress, best=released, best_round=round)
        return progress

    def _sum(
        self, purpose: Purpose, round: int, request_of: Callable[[Session], m.MaskedRequest], layout: Layout
    ) -> Totals:
        """One sum over all sites; a repetition is a new attempt, so that all its keys are fresh."""

        def attempt() -> Totals:
            total = aggregate(
                self._channel,
                request_of(self._folder.next_session(purpose, round)),
                sites=list(self._plan.hospitals),
                masked=self._plan.masked,
                size=layout.size,
                deadline_s=self._deadline_s,
            )
            return layout.unpack(total)

        return self._once_more(attempt)

    def _ledgers(self, *, text: bool) -> dict[str, m.LedgerReport]:
        requests: dict[str, m.Request] = dict.fromkeys(self._plan.hospitals, m.ReadLedger(text=text))
        return self._once_more(
            lambda: exchange(self._channel, requests, m.LedgerReport, step="the ledger", deadline_s=self._deadline_s)
        )

    def _once_more(self, step: Callable[[], T]) -> T:
        """Take a step; if sites fail, restart those and take it once more."""
        try:
            return step()
        except UnavailableError as failure:
            log.warning("%s The step is repeated once.", failure)
            for name in failure.sites:
                self._channel.restart(name)
            self._join(list(failure.sites))
        try:
            return step()
        except UnavailableError as failure:
            raise FederationError(
                f"{failure} It failed twice, so the run stops at its last finished step; "
                "mend the hospital and run the same command to resume."
            ) from failure

    def _result(self, progress: Progress, stopped: str | None) -> FederationResult:
        ledgers = self._ledgers(text=True)
        load_head(self._network.head, progress.best)
        self._network.eval()
        return FederationResult(
            plan=self._plan,
            model=ReleasedModel(
                network=self._network,
                architecture=self._plan.architecture,
                classes=self._plan.classes,
                pixels=self._plan.pixels,
                mean=progress.statistics.mean,
                std=progress.statistics.std,
                round=progress.best_round,
            ),
            records=progress.records,
            ledgers=ledgers,
            digest=vector_digest(progress.head),
            seconds=sum(record.seconds for record in progress.records),
            stopped=stopped,
        )
