"""`make up` and `make down`: Prefect, its worker, MLflow and the diagnosis service as processes in the background."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil

from primia.config import load_params
from primia.errors import ConfigError, PrimiaError
from primia.files import write_json, write_text
from tasks.environment import checkout, prepare, state_folder
from tasks.ports import require_free

POOL = "primia"
_START_S = 120.0
_STOP_S = 15.0
# Running requests of the diagnosis service finish; it gives up by itself after two minutes.
_DIAGNOSIS_STOP_S = 150.0
# The worker before its server: one whose server is gone ignores SIGTERM.
_STOP_ORDER = ("diagnosis", "worker", "prefect", "mlflow")


def up() -> None:
    """Start whatever does not run yet, deploy the pipeline, print the addresses."""
    prefect_port = _port("PREFECT_PORT", 4200)
    mlflow_port = _port("MLFLOW_PORT", 5000)
    diagnosis_port = _port("DIAGNOSIS_PORT", 8443)
    running = {name for name in _STOP_ORDER if _alive(name)}
    wanted = (
        ("prefect", prefect_port, "PREFECT_PORT"),
        ("mlflow", mlflow_port, "MLFLOW_PORT"),
        ("diagnosis", diagnosis_port, "DIAGNOSIS_PORT"),
    )
    for name, port, key in wanted:
        if name not in running:
            require_free(port, way_out=f"choose another: make up {key}={port + 1}")
    try:
        _start_missing(running, prefect_port, mlflow_port, diagnosis_port)
    except BaseException:
        _stop_all(set(_STOP_ORDER) - running)
        raise


def _start_missing(running: set[str], prefect_port: int, mlflow_port: int, diagnosis_port: int) -> None:
    from tasks.tracking import open_store

    load_params()  # the diagnosis service reads them: a mistake is told here, not in its log
    open_store()
    api = f"http://127.0.0.1:{_started('prefect', prefect_port)}/api"
    mlflow = f"http://127.0.0.1:{_started('mlflow', mlflow_port)}"
    diagnosis = f"http://127.0.0.1:{_started('diagnosis', diagnosis_port)}"
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_LOGGING_LEVEL": "INFO"}
    if "prefect" not in running:
        _start("prefect", ["-m", "prefect", "server", "start", "--port", str(prefect_port)], environment, prefect_port)
    if "mlflow" not in running:
        store = os.environ["MLFLOW_TRACKING_URI"]
        serve = ["-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(mlflow_port), "--workers", "1"]
        # The desk shows runs and models; MLflow's seven processes for jobs of language models stay off.
        desk = {**environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        _start("mlflow", serve, desk, mlflow_port)
    if "diagnosis" not in running:
        _start("diagnosis", ["-m", "flows.serve", "--port", str(diagnosis_port)], environment, diagnosis_port)
    _wait("prefect", "Prefect", f"{api}/health")
    _wait("mlflow", "MLflow", f"{mlflow}/health")
    _wait("diagnosis", "The diagnosis service", f"{diagnosis}/healthz")
    _prefect(environment, "work-pool", "create", POOL, "--type", "process", "--overwrite")
    _prefect(environment, "--no-prompt", "deploy", "--all")
    if "worker" not in running:
        _start("worker", ["-m", "prefect", "worker", "start", "--pool", POOL], environment, None)
    write_text(checkout() / ".env", f"# written by make up, removed by make down\nPREFECT_API_URL={api}\n")
    print(f"Prefect    {api.removesuffix('/api')}\nMLflow     {mlflow}\nDiagnosis  {diagnosis} (docs/encrypted.md)")
    print("Next:      source .venv/bin/activate && prefect deployment run pipeline/local --watch")


def down() -> None:
    """Stop everything that `up` started; nothing to do is fine."""
    (checkout() / ".env").unlink(missing_ok=True)
    _stop_all(set(_STOP_ORDER))


def _stop_all(names: set[str]) -> None:
    for name in _STOP_ORDER:
        process = _alive(name) if name in names else None
        if process:
            _stop(process, within_s=_DIAGNOSIS_STOP_S if name == "diagnosis" else _STOP_S)
            _record(name).unlink(missing_ok=True)
            print(f"stopped {name}")


def _record(name: str) -> Path:
    return state_folder() / "services" / f"{name}.json"


def _port(key: str, default: int) -> int:
    text = os.environ.get(key, str(default))
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise ConfigError(f"{key} is {text!r}, which is no port; give a number from 1 to 65535.")
    return int(text)


def _alive(name: str) -> psutil.Process | None:
    """The recorded process, if it still runs and is the same one."""
    try:
        record = json.loads(_record(name).read_text())
        process = psutil.Process(record["pid"])
        if process.create_time() == record["created"] and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (FileNotFoundError, psutil.NoSuchProcess):
        pass
    return None


def _started(name: str, default_port: int) -> int:
    return int(json.loads(_record(name).read_text())["port"]) if _alive(name) else default_port


def _start(name: str, arguments: list[str], environment: dict[str, str], port: int | None) -> None:
    log = state_folder() / "services" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=checkout(),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    created = psutil.Process(process.pid).create_time()
    write_json(_record(name), {"pid": process.pid, "created": created, "port": port})


def _wait(name: str, what: str, url: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5.0).is_success:
                return
        if _alive(name) is None:
            raise PrimiaError(f"{what} ended before it answered; see .state/services/{name}.log.")
        time.sleep(0.3)
    raise PrimiaError(f"{what} did not answer at {url} within {_START_S:.0f} s; see the logs in .state/services.")


def _prefect(environment: dict[str, str], *arguments: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments], env=environment, cwd=checkout(), capture_output=True, text=True
    )
    if answer.returncode != 0:
        raise PrimiaError(f"prefect {' '.join(arguments)} failed: {' '.join(answer.stdout.split()[-40:])}")


def _stop(process: psutil.Process, *, within_s: float) -> None:
    family = [process, *process.children(recursive=True)]
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
    _, stubborn = psutil.wait_procs(family, timeout=within_s)
    for survivor in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            survivor.kill()
    psutil.wait_procs(stubborn, timeout=_STOP_S)


def main() -> None:
    """Entry point of the Makefile."""
    actions: dict[str, Callable[[], None]] = {"up": up, "down": down}
    prepare()
    try:
        actions[sys.argv[1]]()
    except PrimiaError as error:
        print(f"primia: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
