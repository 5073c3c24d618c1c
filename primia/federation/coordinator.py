"""The coordinator: a state machine of statistics, then rounds of training and validation, over any channel.

It sees sums only. It draws no noise, makes no keys, and knows neither files nor counts of a single site.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from primia.errors import FederationError
from primia.federation import messages as m
from primia.federation.budget import epsilon_so_far
from primia.federation.channel import Channel
from primia.federation.checkpoint import GlobalModel, Progress, RoundRecord, RunFolder, Trained
from primia.federation.cohort import Cohort, Tally
from primia.federation.journal import SessionRecord
from primia.federation.plan import Plan
from primia.federation.refusals import BudgetError
from primia.federation.server_optimiser import initial_state, server_step
from primia.federation.summed_changes import check_training, mean_loss, train_layout, weight_bound
from primia.federation.summed_gradients import check_gradients, gradient_change, gradient_layout
from primia.federation.summed_statistics import check_statistics, pooled_statistics, statistics_layout
from primia.federation.summed_validation import check_validation, evaluate_layout, validation
from primia.federation.vectors import words_to_bytes
from primia.federation.verdict import judged, reason_to_stop
from primia.federation.weights import Floats, head_vector, load_head, vector_digest
from primia.models.released import ReleasedModel
from primia.secagg.countersigned import Countersigned
from primia.secagg.session import Session
from primia.training.pretrain import initial_network

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FederationResult:
    """A finished run.

    `model` is that of the round which the plan releases, the last or the best by validation score. `digest` is the
    SHA-256 of the global weights after the last round; `stopped` says why the run ended before its last round, or is
    None.
    `ledgers` are the sites' own words about the privacy they spent; one that could not be reached has none.
    `sessions` tells of every sum, also of those that failed; `transcript` is the last one that the hospitals signed,
    None in clear. `seconds` adds up all rounds.
    """

    plan: Plan
    model: ReleasedModel
    records: tuple[RoundRecord, ...]
    sessions: tuple[SessionRecord, ...]
    ledgers: dict[str, m.LedgerReport]
    transcript: Countersigned | None
    digest: str
    seconds: float
    stopped: str | None

    @property
    def unread_ledgers(self) -> tuple[str, ...]:
        """Hospitals that could not be asked what they spent."""
        return tuple(name for name in self.plan.hospitals if name not in self.ledgers)

    @property
    def epsilon(self) -> float | None:
        """What the run spent per patient, None without differential privacy.

        A patient belongs to one hospital, so the largest ε over hospitals holds for all. A hospital whose ledger could
        not be read spent at most the target, which it does not exceed.
        """
        if self.plan.privacy is None:
            return None
        if self.unread_ledgers:
            return self.plan.privacy.target_epsilon
        return max(ledger.epsilon for ledger in self.ledgers.values())


@dataclass(frozen=True)
class Lesson:
    """What a plan with a student says only digests of: the weights it starts from, and its teacher's, (parameters,)."""

    start: Floats
    teacher: Floats


class Coordinator:
    """Runs one plan from where its folder says it is to its end."""

    def __init__(
        self,
        plan: Plan,
        *,
        channel: Channel,
        folder: RunFolder,
        deadline_s: float,
        lesson: Lesson | None = None,
        on_round: Callable[[RoundRecord], None] | None = None,
        on_result: Callable[[FederationResult], None] | None = None,
    ) -> None:
        """`lesson` belongs to a plan with a student, for which `rounds` takes the place of `run`."""
        self._plan, self._channel, self._folder, self._lesson = plan, channel, folder, lesson
        self._on_round, self._on_result = on_round, on_result
        teacher = None if lesson is None else lesson.teacher
        self._cohort = Cohort(plan, channel=channel, folder=folder, deadline_s=deadline_s, teacher=teacher)
        self._network = plan.network()

    def run(self) -> FederationResult:
        """Run all rounds that are left, and release the model.

        Raises:
            PrimiaError: too few hospitals stay, or they refuse; the run can be resumed.
        """
        progress, stopped = self.rounds()
        result = self._result(progress, stopped)
        # Only a model that is safe may end the run: a crash before that resumes here and charges nothing again.
        if self._on_result is not None:
            self._on_result(result)
        self._folder.finish(progress.records)
        return result

    def rounds(self) -> tuple[Progress, str | None]:
        """Run all rounds that are left; where they led, and why they ended before the last one, or None.

        Raises:
            PrimiaError: see `run`.
        """
        if not self._plan.masked:
            log.warning(
                "SECURE AGGREGATION IS OFF (secure_aggregation.scheme: none): the coordinator sees the update of "
                "every single hospital in clear. Never use this with patients' images."
            )
        self._cohort.join(list(self._plan.hospitals))
        progress, stopped = self._folder.load() or self._begin(), None
        while len(progress.records) < self._plan.rounds:
            stopped = reason_to_stop(self._plan, progress)
            if stopped is not None:
                break
            try:
                if progress.trained == len(progress.records):
                    progress = self._train(progress)
                    self._folder.save(progress)
                progress = self._validate(progress)
                self._folder.save(progress)
            except BudgetError as error:
                # Repeated attempts were charged, too: the budget, not the number of rounds, is what counts.
                if not progress.records:
                    raise
                stopped = str(error)
                break
            if self._on_round is not None:
                self._on_round(progress.records[-1])
        if stopped is not None:
            log.warning("the run ends after round %d of %d: %s", progress.trained, self._plan.rounds, stopped)
        return progress, stopped

    def _begin(self) -> Progress:
        plan, digest = self._plan, self._plan.digest()
        head = self._first_weights()
        tally = self._cohort.sum(
            "statistics", 0, lambda s: m.Statistics(session=s, plan=digest), statistics_layout(plan)
        )
        check_statistics(plan, tally.totals, sites=len(tally.survivors))
        statistics = pooled_statistics(tally.totals, counted=tally.survivors)
        if plan.student is not None:  # which was given its own with its first weights
            statistics = replace(statistics, mean=plan.student.mean, std=plan.student.std)
        progress = Progress(
            statistics=statistics,
            model=GlobalModel(round=0, head=head, average=head.astype(np.float64), server=initial_state(len(head))),
            released=head,
        )
        self._folder.journal.add(tally.record)
        self._folder.save(progress)
        return progress

    def _first_weights(self) -> Floats:
        if self._lesson is not None:
            return self._lesson.start
        plan = self._plan
        network = initial_network(plan.model, plan.training, classes=plan.classes, pixels=plan.pixels, depth=plan.depth)
        return head_vector(network.head)

    def _train(self, progress: Progress) -> Progress:
        started, before, round = time.monotonic(), self._channel.bytes_received(), progress.trained + 1
        plan, model, statistics = self._plan, progress.model, progress.statistics
        bound = weight_bound(plan, statistics)
        parameters = len(model.head)
        layout = (
            gradient_layout(parameters)
            if plan.distributed
            else train_layout(plan, parameters=parameters, total_weight=bound.total)
        )

        def request(session: Session) -> m.Train:
            return m.Train(
                session=session,
                plan=plan.digest(),
                model=words_to_bytes(model.head),
                model_digest=vector_digest(model.head),
                mean=statistics.mean,
                std=statistics.std,
                total_weight=bound.total,
                counted=statistics.counted,
                spare=bound.spare,
                class_weights=statistics.class_weights,
            )

        tally = self._cohort.sum("train", round, request, layout, only=progress.cohort)
        change, clipped, record = self._change(tally, progress)
        head, server = server_step(plan.server, model.head, change, model.server)
        kept = plan.average if model.server.step else 0.0  # the average begins at the first trained model
        self._folder.journal.add(record)
        return replace(
            progress,
            model=GlobalModel(
                round=round,
                head=head,
                average=kept * model.average + (1 - kept) * head.astype(np.float64),
                server=server,
            ),
            before=None if plan.rollback_margin is None else model,
            trained=round,
            latest=Trained(
                participants=tally.survivors,
                clipped_fraction=clipped,
                seconds=time.monotonic() - started,
                bytes_up=self._channel.bytes_received() - before,
            ),
        )

    def _change(self, tally: Tally, progress: Progress) -> tuple[NDArray[np.float64], float, SessionRecord]:
        """The mean change of the model, (parameters,), the clipped fraction of its entries, and the round's record."""
        plan, totals, sites = self._plan, tally.totals, len(tally.survivors)
        if plan.distributed:
            check_gradients(totals)
            return gradient_change(plan, totals, sites=sites, round=tally.record.round), 0.0, tally.record
        check_training(plan, totals, sites=sites, total_weight=weight_bound(plan, progress.statistics).total)
        weight = self._weight(tally, progress)
        clipped = int(totals["clipped"][0]) / (len(totals["delta"]) * sites)
        record = replace(
            tally.record,
            clipped_fraction=clipped,
            shrunk=int(totals["shrunk"][0]),
            training_loss=mean_loss(totals, weight=weight),
        )
        return plan.quantiser.mean(totals["delta"], weight), clipped, record

    def _weight(self, tally: Tally, progress: Progress) -> int:
        """The sum of the survivors' weights, held against what is known of it."""
        plan, statistics, weight = self._plan, progress.statistics, int(tally.totals["weight"][0])
        if plan.weights == "equal":
            right = weight == len(tally.survivors)
        elif tally.survivors == statistics.counted:
            right = weight == statistics.images
        else:
            right = 0 < weight <= weight_bound(plan, statistics).total
        if not right:
            raise FederationError(
                f"The weights of round {tally.record.round} add up to {weight}, which does not fit the statistics: a "
                "hospital changed its images during the run, or does not keep to the protocol; start a new run."
            )
        return weight

    def _validate(self, progress: Progress) -> Progress:
        started, before, round = time.monotonic(), self._channel.bytes_received(), progress.trained
        plan, released, latest = self._plan, progress.model.released, progress.latest
        assert latest is not None

        def request(session: Session) -> m.Evaluate:
            return m.Evaluate(
                session=session,
                plan=plan.digest(),
                model=words_to_bytes(released),
                model_digest=vector_digest(released),
                mean=progress.statistics.mean,
                std=progress.statistics.std,
            )

        tally = self._cohort.sum("evaluate", round, request, evaluate_layout(plan))
        check_validation(plan, tally.totals, sites=len(tally.survivors))
        figures = validation(tally.totals)
        record = RoundRecord(
            round=round,
            validation_score=figures.score,
            validation_accuracy=figures.accuracy,
            validation_loss=figures.loss,
            epsilon=epsilon_so_far(plan, rounds=round),
            clipped_fraction=latest.clipped_fraction,
            seconds=time.monotonic() - started + latest.seconds,
            bytes_up_per_site=(self._channel.bytes_received() - before + latest.bytes_up) // len(latest.participants),
            participants=len(latest.participants),
        )
        after = judged(plan, progress, record)
        if after.undone:
            log.warning("round %d is undone: its validation score is %.3f", round, figures.score)
        self._folder.journal.add(replace(tally.record, outcome="rolled_back" if after.undone else "finished"))
        return after

    def _result(self, progress: Progress, stopped: str | None) -> FederationResult:
        ledgers = self._cohort.ledgers()
        load_head(self._network.head, progress.released)
        mean, std = progress.statistics.mean, progress.statistics.std
        return FederationResult(
            plan=self._plan,
            model=self._plan.released(self._network, mean=mean, std=std, round=progress.released_round),
            records=progress.records,
            sessions=self._folder.journal.records(),
            ledgers=ledgers,
            transcript=self._folder.transcript(),
            digest=vector_digest(progress.model.head),
            seconds=sum(record.seconds for record in progress.records),
            stopped=stopped,
        )
