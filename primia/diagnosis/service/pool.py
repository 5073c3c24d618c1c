"""Workers with the weights encoded, a bounded queue before them, and a thread that keeps each of them alive.

A worker of its own process and pipe each, not a ProcessPoolExecutor: there, one killed process breaks all others.
"""

import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from primia.diagnosis.service.events import EventLog
from primia.diagnosis.service.metrics import Metrics
from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.service.worker_process import WorkerDied, WorkerHung, WorkerProcess
from primia.errors import EncryptionError

_LOOK_S = 0.2  # an idle worker that died is replaced after this time at most
_PAUSES_S = (0.2, 1.0, 5.0)  # between starts that fail
_ATTEMPTS = 2
# A worker takes the oldest request whose keys it has parsed already, unless another one has waited longer than this.
_PATIENCE_S = 2.0
_REMEMBERED = 8


@dataclass(frozen=True)
class Done:
    """What a job gave, and the seconds it waited and took."""

    answer: bytes
    queue_s: float
    evaluate_s: float


@dataclass(eq=False)
class _Job:
    work: dict[str, Any]
    queued: float
    future: "Future[Done]" = field(default_factory=Future)
    attempts: int = 0


class Pool:
    """Runs jobs on the bundle in `folder`; `start` before use, `close` after."""

    def __init__(self, folder: Path, settings: ServiceSettings, *, events: EventLog, metrics: Metrics) -> None:
        self._folder, self._settings, self._events, self._metrics = folder, settings, events, metrics
        self._changed = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._workers: dict[int, WorkerProcess] = {}
        self._busy = 0
        self._failure: EncryptionError | None = None
        self._closing = False
        self._keepers = [threading.Thread(target=self._keep, args=(n,), daemon=True) for n in range(settings.workers)]

    def start(self) -> None:
        """Start all workers and wait until they have encoded the weights.

        Raises:
            EncryptionError: one of them cannot.
        """
        for keeper in self._keepers:
            keeper.start()
        with self._changed:
            self._changed.wait_for(lambda: self._failure or len(self._workers) == len(self._keepers))
            failure = self._failure
        if failure is not None:
            self.close()
            raise failure

    @property
    def alive(self) -> int:
        """Workers ready for work or at work."""
        return sum(worker.is_alive() for worker in list(self._workers.values()))

    @property
    def waiting(self) -> int:
        """Jobs that no worker has begun."""
        return len(self._jobs)

    @property
    def busy(self) -> int:
        """Workers at work."""
        return self._busy

    @property
    def pids(self) -> tuple[int, ...]:
        """Process numbers of the workers."""
        return tuple(worker.pid for worker in list(self._workers.values()))

    def submit(
        self, kind: Literal["check", "evaluate"], keys: Path, ciphertexts: Sequence[bytes] = ()
    ) -> "Future[Done]":
        """Queue a job; its future ends with what it gave, or with a `Refusal`.

        Raises:
            Refusal: the queue is full, or the pool's model has just been replaced.
        """
        job = _Job({"kind": kind, "keys": str(keys), "ciphertexts": list(ciphertexts)}, time.monotonic())
        with self._changed:
            if self._closing:
                raise Refusal(409, "The model has just been replaced; ask for the model again.")
            if len(self._jobs) >= self._settings.most_waiting:
                raise Refusal(503, "The service has as many requests as it can hold; ask again.", retry_after=2)
            self._jobs.append(job)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Take no more jobs, finish those there are, end the workers."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for keeper in self._keepers:
            keeper.join()

    def _keep(self, number: int) -> None:
        """Life of one worker's place: start it, give it jobs, replace it when it dies, end it with the pool."""
        failures = 0
        while not self._ended():
            try:
                worker = WorkerProcess(self._folder, self._settings)
            except (EncryptionError, OSError) as error:
                self._events.write("worker_start_failed", reason=str(error))
                with self._changed:
                    self._failure = self._failure or EncryptionError(str(error))
                    self._changed.notify_all()
                    self._refuse_late()
                    pause = _PAUSES_S[min(failures, len(_PAUSES_S) - 1)]
                    self._changed.wait_for(lambda: self._closing, pause)
                failures += 1
                if self._closing:
                    self._refuse_all()
                continue
            failures = 0
            with self._changed:
                self._workers[number] = worker
                self._changed.notify_all()
            alive, parsed = True, deque[str](maxlen=_REMEMBERED)
            while alive and (job := self._next(worker, parsed)) is not None:
                alive = self._run(worker, job)
            with self._changed:
                del self._workers[number]
            if alive and worker.is_alive():
                worker.close()
            else:
                self._metrics.restarts.inc()
                self._events.write("worker_died", how=worker.ended())
                worker.close()

    def _ended(self) -> bool:
        with self._changed:
            return self._closing and not self._jobs

    def _chosen(self, parsed: "deque[str]") -> _Job:
        job = self._jobs[0]
        if time.monotonic() - job.queued < _PATIENCE_S:
            job = next((each for each in self._jobs if each.work["keys"] in parsed), job)
        self._jobs.remove(job)
        parsed.append(job.work["keys"])
        return job

    def _next(self, worker: WorkerProcess, parsed: "deque[str]") -> _Job | None:
        """The next job; None when the worker died or the pool is done."""
        with self._changed:
            while worker.is_alive():
                if self._jobs:
                    job = self._chosen(parsed)
                    if job.attempts or job.future.set_running_or_notify_cancel():
                        return job
                elif self._closing:
                    return None
                else:
                    self._changed.wait(_LOOK_S)
        return None

    def _run(self, worker: WorkerProcess, job: _Job) -> bool:
        """Do a job; whether the worker lives on."""
        begun = time.monotonic()
        if begun - job.queued > self._settings.queue_s and not job.attempts:
            job.future.set_exception(_late())
            return True
        job.attempts += 1
        with self._changed:
            self._busy += 1
        try:
            said = worker.ask(job.work, within_s=self._settings.evaluate_s)
        except WorkerHung:
            sentence = f"The request took longer than the {self._settings.evaluate_s:g} s it may take; ask again later."
            job.future.set_exception(Refusal(503, sentence, retry_after=5))
            return False
        except WorkerDied:
            if job.attempts < _ATTEMPTS:
                self._metrics.retried.inc()
                self._events.write("job_retried", kind=job.work["kind"])
                with self._changed:
                    self._jobs.appendleft(job)
                    self._changed.notify()
            else:
                job.future.set_exception(
                    Refusal(503, "The request ended two workers; make keys and question anew.", retry_after=5)
                )
            return False
        finally:
            with self._changed:
                self._busy -= 1
        if "answer" in said:
            job.future.set_result(
                Done(bytes(said["answer"]), queue_s=begun - job.queued, evaluate_s=float(said["seconds"]))
            )
        elif "gone" in said:
            job.future.set_exception(Refusal(404, "These keys have just expired here; enrol them again."))
        else:
            job.future.set_exception(
                Refusal(422, str(said.get("refused", "The content cannot be used; send it anew.")))
            )
        return True

    def _refuse_late(self) -> None:
        now = time.monotonic()
        while self._jobs and now - self._jobs[0].queued > self._settings.queue_s:
            _fail(self._jobs.popleft())

    def _refuse_all(self) -> None:
        with self._changed:
            while self._jobs:
                _fail(self._jobs.popleft())


def _late() -> Refusal:
    return Refusal(503, "The service was too busy to begin with the request; ask again.", retry_after=5)


def _fail(job: _Job) -> None:
    if job.attempts or job.future.set_running_or_notify_cancel():
        job.future.set_exception(_late())
