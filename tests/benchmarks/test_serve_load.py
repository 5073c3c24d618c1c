"""The load test measures the real service: nothing is lost with a worker. Times are not judged."""

import json

import pytest

from benchmarks.serve_load import main

KEYS = [
    "requests",
    "clients",
    "lost",
    "wrong",
    "retried",
    "p50_s",
    "p95_s",
    "server_mb",
    "workers_mb",
    "machine",
    "requests_per_s",
]


@pytest.mark.system
def test_no_question_is_lost_with_a_worker_and_every_answer_is_right(capsys) -> None:
    main(["--requests", "12", "--clients", "2", "--workers", "1", "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(KEYS) <= set(figures)
    assert (figures["requests"], figures["clients"], figures["killed"]) == (12, 2, 1)
    assert (figures["lost"], figures["wrong"]) == (0, 0)
    assert len(figures["server_mb"]) == len(figures["workers_mb"]) == 2
    assert 0 < figures["p50_s"] <= figures["p95_s"]


@pytest.mark.parametrize("wrong", [["--requests", "5"], ["--clients", "0"], ["--workers", "0"]])
def test_what_cannot_be_measured_is_refused_before_it_starts(capsys, wrong) -> None:
    with pytest.raises(SystemExit):
        main(wrong)
    assert "error:" in capsys.readouterr().err
