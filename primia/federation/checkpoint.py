"""What a coordinator keeps on disk, so that a killed run goes on where it was and a site is never asked twice."""

import json
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from primia.errors import FederationError
from primia.federation.plan import Plan
from primia.federation.tally import PooledStatistics
from primia.federation.weights import Floats
from primia.files import read_json, write_bytes, write_json
from primia.secagg.session import Purpose, Session


@dataclass(frozen=True)
class RoundRecord:
    """One finished round: pooled validation figures, and what the round cost.

    `epsilon` is the largest over the sites, of this run so far, 0 without differential privacy; `clipped_fraction` is
    that of all sites' weight changes; `bytes_up_per_site` is the mean over sites.
    """

    round: int
    validation_mcc: float
    validation_accuracy: float
    validation_loss: float
    epsilon: float
    clipped_fraction: float
    seconds: float
    bytes_up_per_site: int
    participants: int


@dataclass(frozen=True)
class Progress:
    """A run after `trained` rounds of training and `len(records)` rounds of validation.

    `head` is the global model, `average` its running average, `best` the released weights of `best_round`; all
    (parameters,). `spent_s`, `spent_bytes` and `clipped` belong to a round that is trained and not yet validated.
    """

    statistics: PooledStatistics
    head: Floats
    average: NDArray[np.float64]
    best: Floats
    best_round: int = 0
    trained: int = 0
    clipped: float = 0.0
    spent_s: float = 0.0
    spent_bytes: int = 0
    records: tuple[RoundRecord, ...] = field(default=())


class RunFolder:
    """The files of one run: plan.json, attempt.json, progress.safetensors while it runs, finished.json after."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.run = folder.name

    def save(self, progress: Progress) -> None:
        """Write everything in one file, atomically."""
        told = {
            "statistics": asdict(progress.statistics),
            "records": [asdict(record) for record in progress.records],
            **{name: getattr(progress, name) for name in _SCALARS},
        }
        tensors = {name: getattr(progress, name) for name in _VECTORS}
        content = save(tensors, metadata={"progress": json.dumps(told, allow_nan=False)})
        write_bytes(self._folder / "progress.safetensors", content)

    def load(self) -> Progress | None:
        """The last saved progress, or None at the beginning.

        Raises:
            FederationError: the file is damaged.
        """
        path = self._folder / "progress.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as stream:
                told = json.loads(stream.metadata()["progress"])
                vectors = {name: stream.get_tensor(name) for name in _VECTORS}
            return Progress(
                statistics=PooledStatistics(**told["statistics"]),
                records=tuple(RoundRecord(**record) for record in told["records"]),
                **{name: told[name] for name in _SCALARS},
                **vectors,
            )
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise FederationError(
                f"{path} is damaged; delete the folder {self._folder} to start the federation anew."
            ) from error

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

    def finish(self, records: tuple[RoundRecord, ...]) -> None:
        """Mark the run as finished and drop its weights: the next federation of this plan is a new run."""
        write_json(self._folder / "finished.json", [asdict(record) for record in records])
        (self._folder / "progress.safetensors").unlink()


_SCALARS = ("best_round", "trained", "clipped", "spent_s", "spent_bytes")
_VECTORS = ("head", "average", "best")


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
