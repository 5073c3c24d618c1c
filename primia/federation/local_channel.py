"""The local channel: one operating-system process per hospital on this machine, reached by a socket pair."""

import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import primia
from primia.errors import ProtocolError
from primia.federation import wire
from primia.federation.channel import Answers
from primia.federation.codec import decode_response, encode
from primia.federation.floors import Floors
from primia.federation.messages import Request, Response

_GRACE_S = 5.0  # for a process whose socket was closed to end by itself

log = logging.getLogger(__name__)


class _SiteProcess:
    """A site's process and this end of its socket; after a failure it stays down until it is replaced."""

    def __init__(self, name: str, *, folder: Path, state: Path, ledgers: Path, floors: Floors | None) -> None:
        # Absolute, and the package's own root on the path: the coordinator may run in any folder.
        root = str(Path(primia.__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-m", "primia.federation.site_process", "--name", name]
        command += ["--folder", str(folder.resolve()), "--state", str(state.resolve())]
        command += ["--ledgers", str(ledgers.resolve()), "--parent", str(os.getpid())]
        if floors is not None:
            command += ["--floors", floors.model_dump_json()]
        self._stream, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [*command, "--socket", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        self.bytes_received = 0
        self._down: str | None = None

    def ask(self, payload: bytes, *, deadline_s: float) -> Response | str:
        """The site's response, or the reason why there is none."""
        if self._down is not None:
            return self._down
        until = time.monotonic() + deadline_s
        try:
            wire.send(self._stream, payload, deadline_s=deadline_s)
            raw = wire.receive(self._stream, deadline_s=max(until - time.monotonic(), 0.001))
            if raw is None:
                return self._fail(self._how_it_ended())
            self.bytes_received += 4 + len(raw)
            return decode_response(raw)
        except TimeoutError:
            return self._fail(f"it gave no answer within {deadline_s:g} s (federation.deadline_s)")
        except OSError:
            return self._fail(self._how_it_ended())
        except ProtocolError as error:
            return self._fail(f"it answered nonsense: {error}")

    def hang_up(self) -> None:
        """Close the socket, which ends the process."""
        self._stream.close()

    def stop(self) -> None:
        """Hang up, and kill the process if it does not end."""
        self.hang_up()
        try:
            self.process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _fail(self, reason: str) -> str:
        self._down = reason
        self._stream.close()
        self.process.kill()
        self.process.wait()
        return reason

    def _how_it_ended(self) -> str:
        try:
            status = self.process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            return "its process closed the channel"
        return f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"


class LocalChannel:
    """Starts a process per hospital on entry and ends them all on exit. Only the channel knows their folders."""

    def __init__(
        self, folders: Mapping[str, Path], *, states: Mapping[str, Path], ledgers: Path, floors: Floors | None = None
    ) -> None:
        """`ledgers` is the one folder of all hospitals' ledgers; `floors` stand in for every hospital's floors.json
        while its process lives, see `federate`."""
        self._places = {name: (folder, states[name]) for name, folder in folders.items()}
        self._ledgers, self._floors = ledgers, floors
        self._sites: dict[str, _SiteProcess] = {}
        self._bytes_of_ended = 0
        self._threads = ThreadPoolExecutor(max_workers=len(folders), thread_name_prefix="primia-channel")

    def __enter__(self) -> Self:
        try:
            for name in self._places:
                self._sites[name] = self._start(name)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, requests: Mapping[str, Request], *, deadline_s: float) -> Answers:
        """See `Channel.ask`."""
        # A broadcast is encoded once.
        payloads = {id(request): encode(request) for request in requests.values()}
        pending = {
            name: self._threads.submit(self._sites[name].ask, payloads[id(request)], deadline_s=deadline_s)
            for name, request in requests.items()
        }
        outcomes = {name: future.result() for name, future in pending.items()}
        return Answers(
            received={name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, str)},
            failed={name: outcome for name, outcome in outcomes.items() if isinstance(outcome, str)},
        )

    def restart(self, name: str) -> None:
        """End a hospital's process, if it still runs, and start a new one."""
        log.warning("restarting the process of hospital %s", name)
        self._bytes_of_ended += self._sites[name].bytes_received
        self._sites[name].stop()
        self._sites[name] = self._start(name)

    def bytes_received(self) -> int:
        """See `Channel.bytes_received`."""
        return self._bytes_of_ended + sum(site.bytes_received for site in self._sites.values())

    def process_ids(self) -> dict[str, int]:
        """Process of each hospital, for a person who wants to look at one."""
        return {name: site.process.pid for name, site in self._sites.items()}

    def close(self) -> None:
        """End all processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for site in self._sites.values():
            site.hang_up()
        for site in self._sites.values():
            site.stop()
        self._sites = {}

    def _start(self, name: str) -> _SiteProcess:
        folder, state = self._places[name]
        return _SiteProcess(name, folder=folder, state=state, ledgers=self._ledgers, floors=self._floors)
