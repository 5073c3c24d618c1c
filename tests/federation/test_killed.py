"""The coordinator's process is killed in the middle of every step, with real site processes, and started again."""

import json
import os
import signal
import subprocess
import sys

import pytest
from federating import NAMES, federated

pytestmark = pytest.mark.system  # starts a process per hospital, many times

SESSIONS = {"statistics": "statistics", "train": "train", "validation": "evaluate"}
COORDINATOR = """
import os, signal, sys
from pathlib import Path
from federating import parameters
from primia.federation import messages as m
from primia.federation.local_channel import LocalChannel
from primia.federation.run import federate

kind, log, repository, sites, state, private = sys.argv[1:]
honest = LocalChannel.ask

def ask(self, requests, *, deadline_s):
    first = next(iter(requests.values()))
    session = getattr(first, "session", None)
    dies = type(first).__name__ == kind and (session.purpose, session.round) == ("train", 2)
    heard = dict(list(requests.items())[:2]) if dies else requests
    with open(log, "a") as lines:
        for name, request in heard.items():
            if isinstance(request, m.MaskedRequest):
                lines.write(f"{name} {request.session.model_dump_json()}\\n")
    answers = honest(self, heard, deadline_s=deadline_s)
    if dies:  # two of three hospitals have answered
        os.kill(os.getpid(), signal.SIGKILL)
    return answers

if __name__ == "__main__":
    LocalChannel.ask = ask
    changes = {"privacy__enabled": True, "federation__rounds": 4} if private == "private" else {}
    result = federate(parameters(Path(repository), **changes), sites=Path(sites), state=Path(state))
    print(result.digest, result.stopped is not None)
"""


@pytest.fixture
def run(site_folders, tmp_path, request):
    """Run the coordinator in a process that is killed at a step; returns what it printed, or None if it was killed."""
    here = request.path.parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parents[1])])}

    def start(kind, *, private=False):
        mode = "private" if private else "plain"
        done = subprocess.run(
            [sys.executable, "-c", COORDINATOR, kind, tmp_path / "log", here.parents[1], site_folders, tmp_path, mode],
            stdout=subprocess.PIPE,
            env=environment,
            check=False,
        )
        assert done.returncode == (0 if kind == "nothing" else -signal.SIGKILL)
        return done.stdout.decode().split() or None

    return start


def answered(folder):
    """(hospital, session) of every question that asked for a vector, in order."""
    lines = (folder / "log").read_text().splitlines()
    return [(name, tuple(json.loads(session).values())) for name, session in (line.split(" ", 1) for line in lines)]


def test_a_coordinator_killed_at_every_step_ends_with_the_identical_model(run, site_folders, params_with, tmp_path):
    for kind in ("AdvertiseKeys", "ShareKeys", "DeliverShares", "Train", "Consistency", "Unmask"):
        assert run(kind) is None
    digest, stopped = run("nothing")
    undisturbed, _ = federated(params_with(), site_folders, tmp_path / "other")
    assert (digest, stopped) == (undisturbed.digest, "False")
    asked = answered(tmp_path)
    assert len(set(asked)) == len(asked)


def test_the_ledgers_are_right_after_a_coordinator_was_killed(run, tmp_path):
    for kind in ("Train", "Unmask"):
        assert run(kind, private=True) is None
    _, stopped = run("nothing", private=True)
    assert stopped == "True"  # two answers were spent on killed attempts
    asked = answered(tmp_path)
    assert len(set(asked)) == len(asked)
    (path,) = (tmp_path / "ledgers").glob("*.jsonl")  # of the source that all three were dealt from
    ledger = [json.loads(line) for line in path.read_text().splitlines()]
    for name in NAMES:
        mine = [entry for entry in ledger if entry["hospital"] == name]
        charged = [(entry["round"], entry["attempt"], SESSIONS[entry["purpose"]]) for entry in mine]
        assert len(set(charged)) == len(charged)
        # Every answer was charged, and nothing else.
        assert charged == [session[1:4] for who, session in asked if who == name]
