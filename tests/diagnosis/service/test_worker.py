"""What a worker does with what nobody thought of, and what its end says."""

import contextlib
import os

import psutil
import pytest

from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.service.worker import Worker
from primia.diagnosis.service.worker_process import WorkerDied, WorkerProcess
from primia.encrypted.bundle import save_bundle


def test_an_unforeseen_error_is_an_answer_and_tells_nothing_of_the_job(small, tmp_path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(small.key_bytes)
    worker = Worker(small.bundle.plan, parsed_bytes=1 << 28)
    job = {"kind": "evaluate", "keys": str(keys)}
    said = worker.answer({**job, "ciphertexts": [5]})  # no bytes: the service never sends that
    assert said == {"refused": "The content cannot be used; make keys and question anew with this version of primia."}
    assert worker.answer({**job, "ciphertexts": [small.fresh]})["answer"]


@pytest.mark.system
def test_a_worker_that_ends_by_itself_says_how(small, tmp_path) -> None:
    save_bundle(tmp_path / "bundle", small.bundle)
    worker = WorkerProcess(tmp_path / "bundle", ServiceSettings())
    with pytest.raises(WorkerDied):
        worker._exchange(b"\xc1", within_s=300.0)  # no job: its loop ends with an error
    assert worker.ended() == "exit status 1"
    worker.close()


@pytest.mark.system
def test_a_worker_is_given_no_password_of_the_services(small, tmp_path, monkeypatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PRIMIA_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
    save_bundle(tmp_path / "bundle", small.bundle)
    with contextlib.closing(WorkerProcess(tmp_path / "bundle", ServiceSettings())) as worker:
        environment = psutil.Process(worker.pid).environ()
    assert "hunter2" not in environment.values()
    assert environment["PATH"] == os.environ["PATH"]
