"""Arms without a protocol, trained in processes of their own, as many at a time as the machine has cores for."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import primia
from primia.config import Params
from primia.errors import PrimiaError


@dataclass(frozen=True)
class Job:
    """One arm with one seed, and the file for its outcome."""

    arm: str
    seed: int
    outcome: Path


def train_side_by_side(
    jobs: Sequence[Job], *, params: Params, sites: Path, test: Path, on_round: Callable[[Job, int], None]
) -> None:
    """Train all jobs; each has as many threads as a hospital has, so that equal seeds give equal bits.

    Args:
        jobs: the longest first, so that no core waits at the end.
        params: all of params.yaml.
        sites: folder with a folder per hospital.
        test: file of the test patients.
        on_round: called after every round of every job.

    Raises:
        PrimiaError: one job has no outcome, and why; the others are ended, and finished ones keep theirs.
    """
    places, waiting = max(1, (os.cpu_count() or 1) // params.training.threads), list(jobs)
    running: list[_Process] = []
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or running:
                while waiting and len(running) < places:
                    running.append(_Process(waiting.pop(0), params, sites=sites, test=test))
                    selector.register(running[-1].told, selectors.EVENT_READ, running[-1])
                for key, _ in selector.select():
                    process = cast(_Process, key.data)
                    if line := process.told.readline():
                        process.hear(json.loads(line), on_round)
                    else:
                        selector.unregister(process.told)
                        running.remove(process)
                        process.end()
        finally:
            for process in running:
                process.kill()


class _Process:
    """The process of one job; it tells its rounds through a pipe, and its outcome in a file."""

    def __init__(self, job: Job, params: Params, *, sites: Path, test: Path) -> None:
        self._job = job
        # Absolute, and the package's own root on the path: the comparison may be run in any folder.
        paths = [str(Path(primia.__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "primia.comparison.place_process", "--arm", job.arm, "--seed", str(job.seed)]
        command += ["--sites", str(sites.resolve()), "--test", str(test.resolve())]
        self._process = subprocess.Popen(
            [*command, "--outcome", str(job.outcome.resolve())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # a line that waits in a buffer would not wake the selector
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self.told: IO[bytes] = self._process.stdout
        # A process that ends at once is noticed when it is listened to.
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stream:
            stream.write(params.model_dump_json().encode())

    def hear(self, said: dict[str, int | str], on_round: Callable[[Job, int], None]) -> None:
        """Pass on a finished round, or raise the reason why there will be no outcome."""
        if "error" in said:
            raise PrimiaError(f"Comparison, arm {self._job.arm}: {said['error']}")
        on_round(self._job, int(said["round"]))

    def end(self) -> None:
        """Wait for a process that has told everything."""
        self.told.close()
        status = self._process.wait()
        if status != 0 or not self._job.outcome.exists():
            how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
            raise PrimiaError(
                f"Comparison, arm {self._job.arm}: its process {how}; if memory ran out, raise training.threads so "
                "that fewer run at a time, and run the same command to resume."
            )

    def kill(self) -> None:
        """End a process in the middle of its work."""
        self._process.kill()
        self._process.wait()
        self.told.close()
