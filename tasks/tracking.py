"""One MLflow run per pass through the pipeline: live curves, metrics and parameters; rebuildable from the files."""

import csv
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from primia.config import load_params
from primia.files import read_json
from tasks.environment import checkout, state_folder
from tasks.paths import FEDERATION, RELEASE_FILES, RELEASE_FOLDERS, RESULTS

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "primia"
FILES = "files"  # the artifact folder that mirrors the checkout
FILES_TAG = "primia.files_digest"
_SESSION_TAG = "primia.session"


@contextmanager
def _alone(name: str) -> Iterator[None]:
    lock = state_folder() / "mlflow" / name
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def open_store() -> "MlflowClient":
    """A client of the store under .state; creates the store and the experiment the first time."""
    import logging

    for noisy in ("mlflow", "mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with _alone("store.lock"):
        client = MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
        if client.get_experiment_by_name(EXPERIMENT) is None:
            artifacts = state_folder() / "mlflow" / "artifacts"
            client.create_experiment(EXPERIMENT, artifact_location=artifacts.as_uri())
    return client


def session_key() -> str:
    """What is the same for all stages of one pass: given by the pipeline, else the `dvc` process above us."""
    given = os.environ.get("PRIMIA_SESSION")
    if given:
        return given
    for process in psutil.Process().parents():
        try:
            words = {Path(word).name for word in process.cmdline()[:3]}
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            break
        if "dvc" in words:
            return f"dvc-{process.pid}-{int(process.create_time())}"
    return f"stage-{os.getpid()}-{int(time.time())}"


class RunLog:
    """One MLflow run, written to by the stages of one pass."""

    def __init__(self, run_id: str) -> None:
        self.client = open_store()
        self.run_id = run_id

    @classmethod
    def of_this_pass(cls) -> "RunLog":
        """The run of this pass; made by whichever stage comes first."""
        return cls._with_tag(_SESSION_TAG, session_key())

    @classmethod
    def of_files(cls, digest: str) -> "RunLog":
        """The run that produced these files, or a new one when the store was rebuilt since."""
        return cls._with_tag(FILES_TAG, digest)

    @classmethod
    def _with_tag(cls, tag: str, value: str) -> "RunLog":
        client = open_store()
        experiment = client.get_experiment_by_name(EXPERIMENT)
        assert experiment is not None
        with _alone("run.lock"):
            found = client.search_runs([experiment.experiment_id], f"tags.`{tag}` = '{value}'")
            if found:
                return cls(found[0].info.run_id)
            tags = {tag: value, "mlflow.source.name": "primia pipeline", **_experiment_tags()}
            name = os.environ.get("DVC_EXP_NAME") or time.strftime("%Y-%m-%d %H:%M:%S")
            return cls(client.create_run(experiment.experiment_id, tags=tags, run_name=name).info.run_id)

    def tag(self, key: str, value: str) -> None:
        """Set a tag on the run."""
        self.client.set_tag(self.run_id, key, value)

    def running(self) -> None:
        """Mark the run as in progress."""
        self.client.update_run(self.run_id, status="RUNNING")

    def ended(self, *, failed: bool) -> None:
        """Mark the run as finished or failed; a later stage of the same pass reopens it."""
        self.client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")

    def parameters(self, params: Mapping[str, Any]) -> None:
        """Log params.yaml, flattened to dotted keys; MLflow refuses a changed value, so each key is logged once."""
        known = self.client.get_run(self.run_id).data.params
        for key, value in flatten(params).items():
            if key not in known:
                self.client.log_param(self.run_id, key, value)

    def metrics(self, prefix: str, values: Mapping[str, Any], *, step: int = 0) -> None:
        """Log every number of a nested mapping under `prefix`."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [
            Metric(f"{prefix}.{key}", float(value), now, step)
            for key, value in flatten(values).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if batch:
            self.client.log_batch(self.run_id, metrics=batch)

    def from_files(self, root: Path) -> None:
        """Log parameters, metrics, round curves and files of a finished pass; what is already there stays."""
        self.parameters(load_params(root / "params.yaml").model_dump(mode="json"))
        for path in sorted((root / RESULTS).glob("*/metrics.json")):
            self.metrics(path.parent.name, read_json(path))
        self.metrics("privacy", read_json(root / FEDERATION / "privacy.json"))
        if not self.client.get_metric_history(self.run_id, "round.validation_score"):
            with (root / FEDERATION / "rounds.csv").open(newline="") as stream:
                for row in csv.DictReader(stream):
                    numbers = {key: float(value) for key, value in row.items() if _is_number(value)}
                    self.metrics("round", numbers, step=int(row["round"]))
        for folder in RELEASE_FOLDERS:
            self.client.log_artifacts(self.run_id, str(root / folder), artifact_path=f"{FILES}/{folder.as_posix()}")
        for path in RELEASE_FILES:
            folder = (Path(FILES) / path.parent).as_posix()
            self.client.log_artifact(self.run_id, str(root / path), artifact_path=folder)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; lists become text."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat


def _experiment_tags() -> dict[str, str]:
    name = os.environ.get("DVC_EXP_NAME")
    return {"dvc.experiment": name, "primia.checkout": str(checkout())} if name else {}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
