"""Progress that a person sees in the terminal: a bar where there is a terminal, lines where there is none."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Told how much is done, and of how much where that is known."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Both count the same things."""


_EVERY_S = 5.0


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """Give a function `advance(done, total)`; shows a bar, or a line every five seconds in a log."""
    if sys.stderr.isatty():
        with _bar(what) as advance:
            yield advance
    else:
        yield _Lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task(what, total=None)

        def advance(done: int, total: int | None = None) -> None:
            bars.update(bar, completed=done, total=total)

        yield advance


class _Lines:
    def __init__(self, what: str) -> None:
        self._what = what
        self._last = time.monotonic()

    def __call__(self, done: int, total: int | None = None) -> None:
        now = time.monotonic()
        if done == total or now - self._last >= _EVERY_S:
            of = "" if total is None else f" of {total}"
            print(f"{self._what}: {done}{of}", file=sys.stderr, flush=True)
            self._last = now
