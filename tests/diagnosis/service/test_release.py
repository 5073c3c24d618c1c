"""What is served follows what is approved, while the service runs."""

import contextlib
import dataclasses
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from diagnosing import NAME, Clinic, Registry, description_of, refusal, running, wait_until

from primia.diagnosis.service.release import Release
from primia.diagnosis.wire import Question
from primia.encrypted.bundle import save_bundle
from primia.errors import GateError

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def other(make_network, export):
    return export(make_network(pixels=8, hidden=16, classes=3, seed=7))


@pytest.fixture
def clinic(small, release_of, tmp_path):
    with running(tmp_path, Registry(release_of(small.bundle)), grace_s=3600.0) as service:
        clinic = Clinic(service, small, service.issue())
        assert clinic.enrol().status_code == 201
        yield clinic


def model_status(clinic: Clinic) -> int:
    return clinic.get(f"/models/{NAME}").status_code


def test_a_new_version_is_served_without_a_restart(clinic, release_of, other) -> None:
    service = clinic.service
    service.registry.release = release_of(other, "2")
    wait_until(lambda: service.serves("2"), "the new version was not loaded")
    said = description_of(clinic.get(f"/models/{NAME}"))
    assert (said.version, said.specification.model_digest) == ("2", other.specification.model_digest)
    assert "ask for the model again" in refusal(clinic.ask(), 409)
    # the same parameters: the keys that were enrolled serve the new version, too
    assert clinic.ask(model=other.specification.model_digest).status_code == 200
    assert 'version="1"' not in service.http.get(f"{service.url}/metrics").text


def test_a_request_that_runs_finishes_on_the_version_it_asked(clinic, release_of, other) -> None:
    service = clinic.service
    (pid,) = service.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(clinic.is_answered_rightly)
        wait_until(lambda: service.metric("primia_workers_busy") == 1, "the request did not begin")
        service.registry.release = release_of(other, "2")
        wait_until(lambda: service.serves("2"), "the new version was not loaded")
        os.kill(pid, signal.SIGCONT)
        assert asked.result()
    assert pid not in service.worker_pids()


def new_worker(known: set[int]) -> psutil.Process:
    """The first worker of a version that is being loaded, stopped before it is ready."""
    new: list[psutil.Process] = []

    def found() -> bool:
        new[:] = [child for child in psutil.Process().children() if child.pid not in known]
        return bool(new)

    wait_until(found, "no new worker was started")
    new[0].suspend()
    return new[0]


def test_while_a_new_version_is_loaded_the_old_one_gets_no_new_questions(clinic, release_of, other) -> None:
    service = clinic.service
    (pid,) = service.worker_pids()
    known = {child.pid for child in psutil.Process().children()}
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(clinic.is_answered_rightly)
        wait_until(lambda: service.metric("primia_workers_busy") == 1, "the request did not begin")
        service.registry.release = release_of(other, "2")
        loading = new_worker(known)
        try:
            for answer in (clinic.ask(), clinic.get(f"/models/{NAME}"), clinic.enrol()):
                assert "is being loaded" in refusal(answer, 503)
                assert int(answer.headers["retry-after"]) >= 1
            assert service.serves(None)
            os.kill(pid, signal.SIGCONT)
            assert asked.result()  # on the old version, while the new one is still being loaded
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            loading.resume()
    wait_until(lambda: service.serves("2"), "the new version was not loaded")


def test_a_revoked_model_is_gone_and_may_come_back(clinic) -> None:
    service = clinic.service
    approved, service.registry.release = service.registry.release, None
    wait_until(lambda: service.serves(None), "the model was still served")
    assert "No model of this name is approved" in refusal(clinic.get(f"/models/{NAME}"), 404)
    assert "No model of this name is approved" in refusal(clinic.ask(), 404)
    assert "No model" in refusal(clinic.enrol(), 404)
    assert clinic.service.http.get(f"{service.url}/healthz").json() == {"status": "ok", "model": None}
    service.registry.release = approved
    wait_until(lambda: service.serves("1"), "the model did not come back")
    assert clinic.is_answered_rightly()


def test_an_unreachable_registry_is_bridged_for_a_while_then_nothing_is_served(clinic) -> None:
    service = clinic.service
    service.registry.error = GateError("The registry does not answer; start it.")
    wait_until(lambda: bool(service.events("registry_unreachable")), "the failure was not logged")
    assert model_status(clinic) == 200
    service.change_limits(grace_s=0.0)
    wait_until(lambda: model_status(clinic) == 503, "the grace did not end")
    assert "cannot be found out" in refusal(clinic.ask(), 503)
    assert service.events("registry_unreachable")[0]["reason"] == "The registry does not answer; start it."
    service.change_limits(grace_s=3600.0)
    service.registry.error = None
    wait_until(lambda: model_status(clinic) == 200, "the service did not recover")
    assert clinic.is_answered_rightly()


class Hanging(Registry):
    go_on = threading.Event()

    def __call__(self) -> Release | None:
        if self.error is not None:
            self.go_on.wait()
        return self.release


def test_a_registry_that_hangs_is_no_better_than_one_that_fails(small, release_of, tmp_path) -> None:
    hanging = Hanging(release_of(small.bundle))
    try:
        with running(tmp_path, hanging) as service:
            clinic = Clinic(service, small, service.issue())
            assert model_status(clinic) == 200
            hanging.error = TimeoutError()
            service.change_limits(grace_s=0.5)
            wait_until(lambda: model_status(clinic) == 503, "the hanging registry was not noticed")
    finally:
        hanging.go_on.set()


def test_a_broken_bundle_is_said_and_takes_the_old_version_out_of_service(clinic, release_of, other) -> None:
    service = clinic.service
    approved, broken = service.registry.release, release_of(other, "2")
    (broken.folder / "weights.safetensors").write_bytes(b"torn")
    service.registry.release = broken
    wait_until(lambda: model_status(clinic) == 503, "the broken version was not noticed")
    assert "cannot be loaded" in refusal(clinic.ask(), 503)
    (refused,) = service.events("release_refused")
    assert refused["version"] == "2"
    assert "damaged or incomplete" in refused["reason"]
    service.registry.release = approved
    wait_until(lambda: model_status(clinic) == 200, "the service did not recover")
    assert clinic.is_answered_rightly()


def test_new_marks_are_shown_without_new_workers(clinic) -> None:
    service = clinic.service
    pids = service.worker_pids()
    service.registry.release = dataclasses.replace(service.registry.release, marks="unfit for patients")
    wait_until(
        lambda: description_of(clinic.get(f"/models/{NAME}")).marks == "unfit for patients", "the marks are not shown"
    )
    assert service.worker_pids() == pids


def test_a_replaced_folder_does_not_change_what_is_served(clinic, other) -> None:
    service = clinic.service
    save_bundle(service.registry.release.folder, other)  # another version is fetched into the same folder
    (pid,) = service.worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: service.worker_pids() not in ((), (pid,)), "the worker was not replaced")
    assert clinic.is_answered_rightly()


def test_keys_made_for_other_parameters_are_asked_for_anew(clinic, release_of, make_network, export) -> None:
    larger = export(make_network(pixels=12, hidden=24, classes=3, seed=3))
    assert larger.specification.parameters != clinic.small.bundle.specification.parameters
    clinic.service.registry.release = release_of(larger, "3")
    wait_until(lambda: clinic.service.serves("3"), "the new version was not loaded")
    assert "enrol" in refusal(clinic.ask(model=larger.specification.model_digest), 404)
    assert "other encryption parameters" in refusal(clinic.enrol(), 422)


def test_nothing_is_served_before_anything_is_approved(small, tmp_path) -> None:
    with running(tmp_path, Registry(None)) as service:
        clinic = Clinic(service, small, service.issue())
        wait_until(lambda: model_status(clinic) == 404, "the registry was not asked")
        assert "No model" in refusal(clinic.send(Question, clinic.question()), 404)
