"""What runs in a worker process of the diagnosis server: one engine, and the keys it parsed last.

SEAL holds the interpreter lock while it computes, so evaluation happens in processes; a crash or a memory bomb in
bytes from outside then ends a worker, never the server.
"""

import resource
from collections import OrderedDict
from pathlib import Path

from primia.encrypted.ckks import EvaluationKeys
from primia.encrypted.engine import Engine
from primia.encrypted.plan import Plan
from primia.errors import EncryptionError

PARSED_KEYS = 4  # about 100 MB each once expanded


class _Worker:
    def __init__(self, plan: Plan) -> None:
        self.engine = Engine(plan)
        self.keys: OrderedDict[str, EvaluationKeys] = OrderedDict()

    def keys_at(self, path: Path) -> EvaluationKeys:
        name = path.name  # the SHA-256 of the content
        if name not in self.keys:
            try:
                content = path.read_bytes()
            except FileNotFoundError as error:
                raise EncryptionError("These keys have just expired on the server; enrol them again.") from error
            self.keys[name] = self.engine.scheme.load_keys(content)
            if len(self.keys) > PARSED_KEYS:
                self.keys.popitem(last=False)
        self.keys.move_to_end(name)
        return self.keys[name]


_worker: _Worker | None = None


def start(plan: Plan, memory_bytes: int) -> None:
    """Limit the process's address space, then encode the weights once."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    global _worker
    _worker = _Worker(plan)


def ready() -> bool:
    """True once the weights are encoded."""
    return _worker is not None


def check_keys(path: Path) -> None:
    """Parse evaluation keys; EncryptionError when they are not the plan's."""
    assert _worker is not None
    _worker.keys_at(path)


def evaluate(path: Path, ciphertext: bytes) -> bytes:
    """Evaluate the plan on a ciphertext with the keys in a file."""
    assert _worker is not None
    return _worker.engine.evaluate([ciphertext], _worker.keys_at(path))
