"""A worker process of the diagnosis service: one engine, and the keys it parsed last.

SEAL holds the interpreter lock while it computes, so evaluation happens in processes; a crash or a memory bomb in
bytes from outside then ends a worker, never the service. What a worker says is msgpack, not pickle: it reads hostile
bytes, and the service must not run what it might then send.
"""

import argparse
import os
import resource
import signal
import time
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgpack

from primia.encrypted.bundle import load_bundle
from primia.encrypted.ckks import EvaluationKeys
from primia.encrypted.engine import Engine
from primia.encrypted.plan import Plan
from primia.errors import EncryptionError


class Worker:
    """An engine, and the keys parsed last: parsing them takes as long as an evaluation."""

    def __init__(self, plan: Plan, *, parsed_bytes: int) -> None:
        self._engine = Engine(plan)
        self._parsed_bytes = parsed_bytes
        self._keys: OrderedDict[str, tuple[EvaluationKeys, int]] = OrderedDict()  # with their size in the file

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do one job: `check` keys in a file, or `evaluate` ciphertexts with them.

        The file's name is the SHA-256 of its content. Returns answer and seconds, or why it was refused, or that the
        keys are gone.
        """
        started = time.perf_counter()
        try:
            keys = self._keys_at(Path(job["keys"]))
            answer = self._engine.evaluate(job["ciphertexts"], keys) if job["kind"] == "evaluate" else b""
        except FileNotFoundError:
            return {"gone": True}
        except EncryptionError as error:
            return {"refused": str(error)}
        except MemoryError:
            return {"refused": "The request needs more memory than a worker may use; send what this model asks for."}
        except Exception:  # hostile bytes found a case nobody thought of: it costs its sender an answer, not a worker
            return {"refused": "The content cannot be used; make keys and question anew with this version of primia."}
        return {"answer": answer, "seconds": time.perf_counter() - started}

    def _keys_at(self, path: Path) -> EvaluationKeys:
        name = path.name
        if name not in self._keys:
            content = path.read_bytes()
            room = self._parsed_bytes - len(content)
            while self._keys and sum(size for _, size in self._keys.values()) > room:
                self._keys.popitem(last=False)  # before the new ones are parsed: memory is limited
            self._keys[name] = self._engine.scheme.load_keys(content), len(content)
        self._keys.move_to_end(name)
        return self._keys[name][0]


def main() -> None:
    """Limit the process, encode the weights once, then answer jobs until the pipe is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--pipe", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--parsed", type=int, required=True)
    options = parser.parse_args()
    # The service decides when its workers end: by closing the pipe, also when a whole process group is stopped.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would hold clients' keys
    resource.setrlimit(resource.RLIMIT_AS, (options.memory, options.memory))
    os.nice(5)  # the event loop comes first: refusing costs little and must not wait for SEAL
    with Connection(options.pipe) as pipe:
        try:
            worker = Worker(load_bundle(options.bundle).plan, parsed_bytes=options.parsed)
        except (EncryptionError, MemoryError) as error:
            pipe.send_bytes(_packed({"failed": str(error) or "its memory limit is too small for this model"}))
            return
        pipe.send_bytes(_packed({"ready": True}))
        while True:
            try:
                job = msgpack.unpackb(pipe.recv_bytes(), max_bin_len=1 << 31)
            except EOFError:
                return
            pipe.send_bytes(_packed(worker.answer(job)))


def _packed(message: dict[str, Any]) -> bytes:
    return bytes(msgpack.packb(message))


if __name__ == "__main__":
    main()
