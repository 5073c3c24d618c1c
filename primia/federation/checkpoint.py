"""What a coordinator keeps on disk, so that a killed run goes on where it was and a site is never asked twice."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from primia.errors import DataError, FederationError
from primia.federation.journal import Journal
from primia.federation.plan import Hospital, Plan
from primia.federation.server_optimiser import ServerState
from primia.federation.summed_statistics import PooledStatistics
from primia.federation.weights import Floats
from primia.files import read_json, write_bytes, write_json
from primia.secagg.countersigned import Countersigned
from primia.secagg.session import Purpose, Session


@dataclass(frozen=True)
class RoundRecord:
    """One round that was trained and validated, also if it was undone: pooled validation figures, and its cost.

    `validation_score` is the MCC, or of masks, which have no accuracy, the mean Dice. `epsilon` is that of the plan so
    far, without repetitions, for a curve; 0 without differential privacy, with which there is no `validation_loss`.
    `clipped_fraction` is that of all weight changes; `bytes_up_per_site` is the mean over the `participants` of the
    training.
    """

    round: int
    validation_score: float
    validation_accuracy: float | None
    validation_loss: float | None
    epsilon: float
    clipped_fraction: float
    seconds: float
    bytes_up_per_site: int
    participants: int


@dataclass(frozen=True)
class GlobalModel:
    """What a round changes: the weights, their running average, and what the server optimiser remembers.

    `round` is the one that made it, 0 before the first; `head` and `average` are (parameters,).
    """

    round: int
    head: Floats
    average: NDArray[np.float64]
    server: ServerState

    @property
    def released(self) -> Floats:
        """The weights that are validated and may be released, (parameters,): the average, in float32."""
        return self.average.astype(np.float32)


@dataclass(frozen=True)
class Trained:
    """What is kept of a round between its training and its validation."""

    participants: tuple[str, ...]
    clipped_fraction: float
    seconds: float
    bytes_up: int


@dataclass(frozen=True)
class Progress:
    """A run after `trained` rounds of training and `len(records)` rounds of validation.

    `released` holds the weights to release, those of `released_round`, (parameters,). `before` is the model that a
    round started from, and `latest` what is known of the round, until it is validated. `undone` counts the rounds in a
    row that started from `model` and were rolled back; if there was one, only the hospitals in `cohort` are asked about
    it again.
    """

    statistics: PooledStatistics
    model: GlobalModel
    released: Floats
    released_round: int = 0
    trained: int = 0
    before: GlobalModel | None = None
    latest: Trained | None = None
    undone: int = 0
    cohort: tuple[str, ...] = ()
    records: tuple[RoundRecord, ...] = field(default=())


class RunFolder:
    """The files of one run: plan.json, attempt.json, rounds.jsonl, progress.json, and finished.json after it.

    weights-<round>.safetensors holds the model that a round made; it is written once, and removed when progress.json
    no longer names it. transcript.json is the last session that enough hospitals signed, and with it the heads of their
    ledgers.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run = folder.name
        self.journal = Journal(folder / "rounds.jsonl")
        self._stored: set[int] = set()  # rounds whose models are on the disk as this process knows them

    def save(self, progress: Progress) -> None:
        """Write models that are new, then, atomically, the file that names them, and remove models of no more use."""
        models = {model.round: model for model in (progress.model, progress.before) if model is not None}
        for model in models.values():
            if model.round not in self._stored:
                self._write(model)
        told = {
            "statistics": asdict(progress.statistics),
            "latest": None if progress.latest is None else asdict(progress.latest),
            "records": [asdict(record) for record in progress.records],
            "cohort": progress.cohort,
            "model": progress.model.round,
            "before": None if progress.before is None else progress.before.round,
            **{name: getattr(progress, name) for name in _SCALARS},
        }
        write_json(self._folder / "progress.json", told)
        for round in self._stored - {*models, progress.released_round}:
            self._weights(round).unlink(missing_ok=True)
            self._stored.remove(round)

    def load(self) -> Progress | None:
        """The last saved progress, or None at the beginning.

        Raises:
            FederationError: a file is damaged or missing.
        """
        path = self._folder / "progress.json"
        if not path.exists():
            return None
        try:
            told = read_json(path)
            rounds = {told["model"], told["released_round"], *([] if told["before"] is None else [told["before"]])}
            models = {round: self._read(round) for round in rounds}
            self._stored = rounds
            return Progress(
                statistics=_STATISTICS.validate_python(told["statistics"]),
                model=models[told["model"]],
                before=None if told["before"] is None else models[told["before"]],
                released=models[told["released_round"]].released,
                latest=_LATEST.validate_python(told["latest"]),
                cohort=tuple(told["cohort"]),
                records=tuple(RoundRecord(**record) for record in told["records"]),
                **{name: told[name] for name in _SCALARS},
            )
        except (DataError, SafetensorError, ValidationError, KeyError, TypeError, ValueError, OSError) as error:
            raise FederationError(
                f"{path} or a model beside it is damaged; delete the folder {self._folder} to start the federation "
                "anew."
            ) from error

    def _weights(self, round: int) -> Path:
        return self._folder / f"weights-{round}.safetensors"

    def _write(self, model: GlobalModel) -> None:
        # What lies there already is of a process that died before it said so.
        tensors = {
            "head": model.head,
            "average": model.average,
            "first": model.server.first,
            "second": model.server.second,
        }
        write_bytes(self._weights(model.round), save(tensors, metadata={"step": str(model.server.step)}))
        self._stored.add(model.round)

    def _read(self, round: int) -> GlobalModel:
        with safe_open(self._weights(round), framework="numpy") as stream:
            head, average, first, second = (stream.get_tensor(name) for name in ("head", "average", "first", "second"))
            step = int(stream.metadata()["step"])
        return GlobalModel(
            round=round, head=head, average=average, server=ServerState(step=step, first=first, second=second)
        )

    def next_session(self, purpose: Purpose, round: int) -> Session:
        """A session that was never asked for in this run; on disk before any site hears of it."""
        path = self._folder / "attempt.json"
        attempt = 1
        if path.exists():
            last = read_json(path)
            if (last["purpose"], last["round"]) == (purpose, round):
                attempt = last["attempt"] + 1
        session = Session(run=self.run, round=round, attempt=attempt, purpose=purpose)
        write_json(path, session.model_dump())
        return session

    def keep_transcript(self, transcript: Countersigned) -> None:
        """Keep the transcript of the last session in place of the one before."""
        write_bytes(self._folder / "transcript.json", transcript.model_dump_json(indent=2).encode())

    def transcript(self) -> Countersigned | None:
        """The last one that was kept, or None.

        Raises:
            FederationError: the file is damaged.
        """
        path = self._folder / "transcript.json"
        try:
            return Countersigned.model_validate_json(path.read_bytes()) if path.exists() else None
        except ValidationError as error:
            raise FederationError(f"{path} is damaged; remove it, and only this evidence of it is lost.") from error

    def finish(self, records: tuple[RoundRecord, ...]) -> None:
        """Mark the run as finished and drop its weights: the next federation of this plan is a new run."""
        write_json(self._folder / "finished.json", [asdict(record) for record in records])
        (self._folder / "progress.json").unlink(missing_ok=True)
        for weights in self._folder.glob("weights-*.safetensors"):
            weights.unlink()


_SCALARS = ("released_round", "trained", "undone")
_STATISTICS = TypeAdapter(PooledStatistics)
_LATEST: TypeAdapter[Trained | None] = TypeAdapter(Trained | None)


def absent_hospitals(folder: Path, present: Mapping[str, Hospital]) -> dict[str, Hospital]:
    """The hospitals that an unfinished run below `folder` has beyond those that are `present` and just as they were.

    So a run can be resumed while a hospital is away. Empty if there is no such run.
    """
    for found in sorted(folder.glob("*/plan.json")):
        if not (found.parent / "finished.json").exists():
            told = read_json(found)["plan"]["hospitals"]
            hospitals = {name: Hospital.model_validate(entry) for name, entry in told.items()}
            if present.items() <= hospitals.items():
                return {name: hospital for name, hospital in hospitals.items() if name not in present}
    return {}


def open_run(folder: Path, draft: Plan) -> tuple[Plan, RunFolder]:
    """Name the run: an unfinished one of the same plan below `folder` goes on, else a new one begins.

    A new name is random, so that a coordinator that lost its files never asks for a session that was answered.
    """
    prefix = draft.fingerprint()[:16]
    for found in sorted(folder.glob(f"{prefix}-*/plan.json")):
        run = found.parent
        if not (run / "finished.json").exists() and read_json(found)["fingerprint"] == draft.fingerprint():
            return draft.model_copy(update={"run": run.name}), RunFolder(run)
    plan = draft.model_copy(update={"run": f"{prefix}-{secrets.token_hex(4)}"})
    write_json(
        folder / plan.run / "plan.json",
        {"fingerprint": plan.fingerprint(), "digest": plan.digest(), "plan": plan.model_dump(mode="json")},
    )
    return plan, RunFolder(folder / plan.run)
