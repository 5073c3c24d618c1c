"""The process of one hospital on this machine: it answers requests from its socket until the coordinator is gone."""

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from primia.errors import FederationError, PrimiaError
from primia.federation import wire
from primia.federation.codec import decode_request, encode
from primia.federation.floors import Floors
from primia.federation.messages import Response
from primia.federation.refusals import refusal_of
from primia.federation.site import Site

log = logging.getLogger(__name__)

_LOCK_WAIT_S = 30.0
_WATCH_S = 0.5


def serve(stream: socket.socket, site: Site) -> None:
    """Answer every request with a response or a refusal; returns when the stream is closed."""
    while (frame := wire.receive(stream)) is not None:
        response: Response
        try:
            response = site.answer(decode_request(frame))
        except PrimiaError as error:
            response = refusal_of(error)
        except Exception as error:  # one question must not end the hospital's part in all others
            log.error("an unforeseen %s", type(error).__name__)
            response = refusal_of(FederationError("the hospital could not answer for a reason of its own."))
        wire.send(stream, encode(response))


@contextlib.contextmanager
def _alone(state: Path, name: str) -> Iterator[None]:
    """Hold the site's state for this process: two would answer one round twice and tear the ledger."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / "lock").open("w") as lock:
        until = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise FederationError(
                        f"Hospital {name} takes part in another federation on this machine; wait until it has ended."
                    ) from None
                time.sleep(0.1)
        yield


def _end_with(parent: int) -> None:
    """End this process when the coordinator is gone, even in the middle of training."""
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def main() -> int:
    """Run one hospital; see `local_channel` for the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--ledgers", type=Path, required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--floors", type=Floors.model_validate_json, default=None)
    arguments = parser.parse_args()
    # Ctrl-C reaches the whole group; the coordinator decides what ends, and closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[arguments.parent], daemon=True).start()
    # The coordinator may vanish at any time: nobody is left to tell, so there is nothing to report.
    with socket.socket(fileno=arguments.socket) as stream, contextlib.suppress(ConnectionError):
        try:
            with _alone(arguments.state, arguments.name):
                site = Site(
                    name=arguments.name,
                    folder=arguments.folder,
                    state=arguments.state,
                    ledgers=arguments.ledgers,
                    floors=arguments.floors,
                )
                serve(stream, site)
        except PrimiaError as error:
            if wire.receive(stream) is not None:  # the first question gets the reason
                wire.send(stream, encode(refusal_of(error)))
            return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Everything that must last is on the disk, and taking torch down in an orderly way can cost seconds.
    os._exit(status)
