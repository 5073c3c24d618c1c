"""CPU time of named phases, and of the bare AES keystream that bounds any masking from below."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_BLOCK = 1 << 20  # bytes: the fastest way to ask for a long keystream is in pieces that stay in the cache
_SLACK = 15  # update_into asks for a block less one byte of room


class Stopwatch:
    """CPU seconds of this process (not wall time: a busy machine does not make the code slower), per phase."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add what the block costs to the phase `name`."""
        start = time.process_time()
        yield
        self.phases[name] += time.process_time() - start

    @property
    def total(self) -> float:
        """CPU seconds of all phases."""
        return sum(self.phases.values())


def aes_keystream_s(*, streams: int, size: int) -> float:
    """CPU seconds for `streams` AES-256-CTR keystreams of `size` bytes each, thrown away as they are made."""
    zeros, buffer = memoryview(bytes(min(_BLOCK, size))), bytearray(min(_BLOCK, size) + _SLACK)
    watch = Stopwatch()
    with watch.phase("keystream"):
        for number in range(streams):
            stream = Cipher(algorithms.AES256(number.to_bytes(32, "big")), modes.CTR(bytes(16))).encryptor()
            for start in range(0, size, _BLOCK):
                stream.update_into(zeros[: size - start], buffer)
    return watch.total
