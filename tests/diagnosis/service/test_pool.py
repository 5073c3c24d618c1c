"""Workers that die, hang or grow too large: nobody else notices."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from diagnosing import Clinic, Registry, Service, refusal, running, wait_until

from primia.diagnosis.wire import Question

pytestmark = pytest.mark.system


@pytest.fixture
def one_worker(small, release_of, tmp_path):
    with running(
        tmp_path, Registry(release_of(small.bundle)), evaluate_s=300.0, queue_s=300.0, most_waiting=2
    ) as service:
        clinic = Clinic(service, small, service.issue())
        assert clinic.enrol().status_code == 201
        yield clinic


def stopped(service: Service) -> int:
    """The only worker, stopped: whatever it is given next will not be answered."""
    (pid,) = service.worker_pids()
    os.kill(pid, signal.SIGSTOP)
    return pid


def replaced(service: Service, pid: int) -> bool:
    return bool(service.worker_pids()) and pid not in service.worker_pids()


def test_an_idle_worker_that_is_killed_is_replaced_at_once(one_worker) -> None:
    service = one_worker.service
    (pid,) = service.worker_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: replaced(service, pid), "the worker was not replaced")
    assert service.metric("primia_worker_restarts_total") == 1
    assert one_worker.is_answered_rightly()
    assert [event["how"] for event in service.events("worker_died")] == ["SIGKILL"]


def test_a_worker_killed_at_work_costs_its_client_nothing(one_worker) -> None:
    service = one_worker.service
    pid = stopped(service)
    with ThreadPoolExecutor(1) as threads:
        running_request = threads.submit(one_worker.is_answered_rightly)
        wait_until(lambda: service.metric("primia_workers_busy") == 1, "the request did not begin")
        os.kill(pid, signal.SIGKILL)
        assert running_request.result()
    assert service.metric("primia_retried_total") == 1
    assert replaced(service, pid)


def test_a_request_that_ends_two_workers_is_refused_and_given_back(one_worker) -> None:
    service = one_worker.service
    body = one_worker.question()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(one_worker.send, Question, body)
        killed = set()
        while not asked.done():  # a new worker is killed while it still reads the keys
            for pid in set(service.worker_pids()) - killed:
                if service.app.state.releases.pool().busy:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.001)
        answer = asked.result()
    assert len(killed) == 2
    assert "ended two workers" in refusal(answer, 503)
    assert one_worker.send(Question, body).status_code == 200  # the same message: nothing was counted


def test_a_worker_that_hangs_is_killed_and_said(one_worker) -> None:
    service = one_worker.service
    pid = stopped(service)
    service.change_limits(evaluate_s=0.5)
    answer = one_worker.ask()
    assert "took longer than the 0.5 s" in refusal(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1
    service.change_limits(evaluate_s=300.0)
    wait_until(lambda: replaced(service, pid), "the worker was not replaced")
    assert one_worker.is_answered_rightly()


def test_a_full_queue_refuses_at_once(one_worker, small) -> None:
    service = one_worker.service
    pid = stopped(service)
    with ThreadPoolExecutor(3) as threads:
        running_requests = [threads.submit(one_worker.is_answered_rightly)]
        wait_until(lambda: service.metric("primia_workers_busy") == 1, "the request did not begin")
        running_requests += [threads.submit(one_worker.is_answered_rightly) for _ in range(2)]
        wait_until(lambda: service.metric("primia_waiting") == 2, "the requests did not queue")
        body = one_worker.question()
        answer = one_worker.send(Question, body)
        assert "as many requests as it can hold" in refusal(answer, 503)
        assert "retry-after" in answer.headers
        os.kill(pid, signal.SIGCONT)
        assert all(request.result() for request in running_requests)
    assert one_worker.send(Question, body).status_code == 200


def test_workers_load_no_torch_and_their_memory_is_limited(one_worker) -> None:
    (pid,) = one_worker.service.worker_pids()
    worker = psutil.Process(pid)
    assert not [region.path for region in worker.memory_maps() if "torch" in region.path]
    assert worker.rlimit(psutil.RLIMIT_AS) == (4 << 30, 4 << 30)
    assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)


def test_a_model_that_needs_more_memory_than_a_worker_has_is_refused(small, release_of, tmp_path) -> None:
    registry = Registry(release_of(small.bundle))
    with running(tmp_path, registry, worker_memory_bytes=64 << 20) as service:
        said = service.events("release_refused")[0]["reason"]
        assert "memory" in said
        clinic = Clinic(service, small, service.issue())
        assert "cannot be loaded" in refusal(clinic.get("/models/chest"), 503)
