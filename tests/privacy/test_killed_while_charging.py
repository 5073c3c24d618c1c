"""A process that charges is killed at any moment: what it was told is written down is written down."""

import os
import signal
import subprocess
import sys
import time

import pytest

from primia.privacy.ledger import Ledger

pytestmark = pytest.mark.system  # starts processes, many times

CHARGE = """
import itertools, sys
from pathlib import Path
from primia.privacy.accounting import Release
from primia.privacy.ledger import Ledger

ledger = Ledger(Path(sys.argv[1]))
for round in itertools.count():
    ledger.charge(
        run="a", hospital=sys.argv[2], group="training", purpose="train", round=round, attempt=1,
        release=Release(0.25, 1.2, 2), delta=1e-4, synthetic=False,
    )
    print(round, flush=True)
"""


def test_no_acknowledged_charge_is_lost_however_often_hospitals_are_killed(tmp_path, request):
    path = tmp_path / "ledger.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(request.path.parents[2])}
    acknowledged = set()
    for attempt in range(6):
        hospitals = [f"north-{attempt}", f"hill-{attempt}"]  # two write to one ledger, and both are killed
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", CHARGE, path, name], stdout=subprocess.PIPE, env=environment, text=True
            )
            for name in hospitals
        }
        for name, process in processes.items():
            assert process.stdout.readline() == "0\n"
            acknowledged.add((name, 0))
        time.sleep(0.003 * attempt)
        for process in processes.values():
            process.send_signal(signal.SIGKILL)
        for name, process in processes.items():
            told = process.communicate()[0].splitlines()
            acknowledged |= {(name, int(line)) for line in told}
        entries = Ledger(path).entries()
        assert acknowledged <= {(entry.hospital, entry.round) for entry in entries}
        assert len(entries) <= len(acknowledged) + 2 * (attempt + 1)  # a charge that nobody heard of counts, too
    Ledger(path).verify()
