"""The service's end of one worker: its process, its pipe, and a time limit on every answer."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack

import primia
from primia.diagnosis.service.settings import ServiceSettings
from primia.errors import EncryptionError

_MOST_REPLY = 64 << 20  # bytes; an answer is one ciphertext
_LAST_S = 5.0  # for a process whose pipe is closed already


class WorkerDied(Exception):
    """The process ended, or said something that no worker says, before it answered."""


class WorkerHung(Exception):
    """The process was killed because it took too long."""


class WorkerProcess:
    """A process that has encoded the weights of the bundle in `folder`.

    It is started as a command of its own, not by multiprocessing: that would import the service's main module again in
    every worker, and read what it says with pickle.

    Raises:
        EncryptionError: the bundle cannot be used, or encoding it takes longer than `load_s`.
    """

    def __init__(self, folder: Path, settings: ServiceSettings) -> None:
        root = str(Path(primia.__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "primia.diagnosis.service.worker", "--bundle", str(folder.resolve())]
        command += ["--memory", str(settings.worker_memory_bytes), "--parsed", str(settings.parsed_key_bytes)]
        with theirs:
            self._process = subprocess.Popen(
                [*command, "--pipe", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # a trace could tell of what clients sent
                # threads of a BLAS would reserve address space, and SEAL uses none
                env=_environment()
                | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
                | {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            )
        self._pipe = Connection(ours.detach())
        try:
            said = self._exchange(None, within_s=settings.load_s)
        except (WorkerDied, WorkerHung) as error:
            code = self._process.wait()
            self._pipe.close()
            raise EncryptionError(
                f"A worker ended before it was ready ({_how(code)}); give workers more memory or time."
            ) from error
        if "failed" in said:
            self.close()
            raise EncryptionError(f"A worker cannot use this model: {said['failed']}")

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, job: dict[str, Any], *, within_s: float) -> dict[str, Any]:
        """What the worker says about a job.

        Raises:
            WorkerDied, WorkerHung: the process is gone.
        """
        return self._exchange(msgpack.packb(job), within_s=within_s)

    def ended(self) -> str:
        """How a dead process came to its end."""
        return _how(self._process.wait())

    def close(self) -> None:
        """End the process: by closing its pipe, or by force if it does not."""
        self._pipe.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def _end(self) -> None:
        """See a process out whose pipe is broken: it is ending by itself, and how tells more than our SIGKILL."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_S)
        self.kill()

    def _exchange(self, payload: bytes | None, *, within_s: float) -> dict[str, Any]:
        hung = threading.Event()

        def end_it() -> None:
            hung.set()
            self._process.kill()  # which ends the write or the read below

        watch = threading.Timer(within_s, end_it)
        watch.daemon = True
        watch.start()
        try:
            if payload is not None:
                self._pipe.send_bytes(payload)
            said = msgpack.unpackb(self._pipe.recv_bytes(_MOST_REPLY), max_bin_len=_MOST_REPLY)
        except (OSError, EOFError) as error:
            how = WorkerHung if hung.is_set() else WorkerDied
            self._end()
            raise how from error
        except (ValueError, msgpack.UnpackException) as error:
            self.kill()
            raise (WorkerHung if hung.is_set() else WorkerDied) from error
        finally:
            watch.cancel()
        if not isinstance(said, dict):
            self.kill()
            raise WorkerDied
        return said


def _environment() -> dict[str, str]:
    """What Python needs, and no password or key that the service was started with."""
    kept = ("PATH", "HOME", "LANG", "VIRTUAL_ENV", "TMPDIR", "TZ", "LD_LIBRARY_PATH")
    return {name: value for name, value in os.environ.items() if name in kept or name.startswith("LC_")}


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
