"""Speaking to DVC: the order of stages as dvc.yaml gives it, and one stage reproduced at a time."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import yaml
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client

from primia.errors import DataError, PrimiaError
from tasks.environment import checkout, state_folder
from tasks.stage import REPORT_TO, SENTENCE, STARTED

_GRACE_S = 10.0


class StageFailed(PrimiaError):
    """A stage of dvc.yaml did not complete."""


class WorkspaceBusy(PrimiaError):
    """Another pass through the pipeline is running in this checkout."""


def stage_names() -> list[str]:
    """The stages in the order in which dvc.yaml writes them."""
    return list(yaml.safe_load((checkout() / "dvc.yaml").read_text())["stages"])


def check_workspace() -> None:
    """DVC needs git; say so before anything starts.

    Raises:
        DataError: the folder is no git repository or holds no dvc.yaml.
    """
    if not (checkout() / "dvc.yaml").is_file():
        raise DataError(f"{checkout()} holds no dvc.yaml; run the command from the folder of the clone.")
    answer = subprocess.run(["git", "rev-parse", "--git-dir"], capture_output=True, cwd=checkout())
    if answer.returncode != 0:
        raise DataError(f"{checkout()} is no git repository, which DVC needs; clone the project, or type git init.")


@contextlib.contextmanager
def workspace_alone() -> Iterator[None]:
    """Hold the workspace; a second pass is told in one sentence that it is busy.

    Raises:
        WorkspaceBusy: another process holds it; the lock ends with its process.
    """
    lock = state_folder() / "workspace.lock"
    with lock.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise WorkspaceBusy(
                f"The workspace is busy: the pipeline runs as process {stream.read().strip() or 'unknown'}; "
                "wait for it or cancel it, then try again."
            ) from error
        stream.seek(0)
        stream.truncate()
        stream.write(str(os.getpid()))
        stream.flush()
        yield


@contextlib.contextmanager
def new_session() -> Iterator[None]:
    """Everything inside, stages included, writes to one new MLflow run."""
    os.environ["PRIMIA_SESSION"] = f"pipeline-{uuid.uuid4().hex}"
    try:
        yield
    finally:
        del os.environ["PRIMIA_SESSION"]


@task(name="reproduce", task_run_name="reproduce {stage}", cache_policy=NO_CACHE)
def reproduce(stage: str) -> bool:
    """`dvc repro STAGE`: runs it, and whatever it waits for, only if stale; returns whether anything ran.

    Ends the stage and its site processes when this flow run is cancelled.

    Raises:
        StageFailed: with the sentence the stage left.
    """
    began = time.monotonic()
    print(f"── {stage}", flush=True)
    with tempfile.TemporaryDirectory() as folder, get_client(sync_client=True) as client:
        environment = {
            **os.environ,
            REPORT_TO: folder,
            # With a temporary server, too: the stages report to the server of this run.
            "PREFECT_API_URL": str(client.api_url),
        }
        status = _run_group([sys.executable, "-m", "dvc", "repro", "--quiet", stage], environment)
        sentence = Path(folder) / SENTENCE
        if status != 0:
            said = sentence.read_text() if sentence.is_file() else None
            raise StageFailed(said or f"Stage {stage} ended with status {status}; its output stands above.")
        ran = (Path(folder) / STARTED).is_file()
    print(f"   done in {time.monotonic() - began:.0f} s" if ran else "   up to date", flush=True)
    return ran


def _run_group(command: list[str], environment: dict[str, str]) -> int:
    """Run a command in a process group of its own and end the whole group when we are ended ourselves."""
    process = subprocess.Popen(command, env=environment, cwd=checkout(), start_new_session=True)
    try:
        return process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
