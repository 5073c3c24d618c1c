"""What a client learns from one question, and what each step of it took."""

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from primia.encrypted.packing import Floats

OnStep = Callable[[str, dict[str, Any]], None]

_TIMING = re.compile(r"\b(queue|evaluate);dur=(\d{1,9}(?:\.\d{1,9})?)")


@dataclass(frozen=True)
class Diagnosis:
    """Probabilities by class, and how they came about.

    seconds and bytes are by step: preprocess, encrypt, (enrol,) send, compute, decrypt. bytes are what a step gives:
    values, ciphertexts, the question as it travels, the answer, logits. compute is what the server says it took, its
    queue included; send is the rest of the way there and back. marks: such as "unfit for patients", or None.
    """

    probabilities: dict[str, float]
    seconds: dict[str, float]
    bytes: dict[str, int]
    model: str
    version: str
    marks: str | None
    model_digest: str


@dataclass
class Steps:
    """Seconds and bytes of the steps so far; `on_step` hears of each as it begins, with {}, and as it is done."""

    on_step: OnStep | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)

    def begun(self, step: str) -> None:
        """A step begins."""
        if self.on_step is not None:
            self.on_step(step, {})

    def done(self, step: str, *, seconds: float, size: int) -> None:
        """A step is done; one that had to be repeated counts as often as it was."""
        self.seconds[step] = self.seconds.get(step, 0.0) + seconds
        self.bytes[step] = size
        if self.on_step is not None:
            self.on_step(step, {"seconds": seconds, "bytes": size})

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator["Sized"]:
        """Time a block, which says how many bytes it gave."""
        self.begun(name)
        started, sized = time.perf_counter(), Sized()
        yield sized
        self.done(name, seconds=time.perf_counter() - started, size=sized.bytes)


@dataclass
class Sized:
    """A number of bytes, set while a step runs."""

    bytes: int = 0


def server_seconds(timing: str) -> float:
    """Seconds in the server's queue and under evaluation, of its header `Server-Timing`; 0 where it does not say."""
    return sum(float(milliseconds) for _, milliseconds in _TIMING.findall(timing)) / 1000.0


def softmax(logits: Floats) -> list[float]:
    """Probabilities that add up to 1."""
    weights = np.exp(logits - logits.max())
    return [float(value) for value in weights / weights.sum()]
