"""How much one client may ask at once, and how much memory all uploads together may take."""

import contextlib
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator

from primia.diagnosis.service.refusals import Refusal

_MOST_BUCKETS = 10_000


class Rate:
    """A token bucket per client: `burst` requests at once, refilled with `per_s` a second."""

    def __init__(self, *, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # what is left, and since when

    def take(self, client: str) -> None:
        """Count a request.

        Raises:
            Refusal: 429 when the bucket is empty.
        """
        now = self._clock()
        left, since = self._buckets.pop(client, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._per_s)
        allowed = left >= 1.0
        self._buckets[client] = (left - 1.0 if allowed else left, now)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        if not allowed:
            raise Refusal(
                429,
                f"This token allows {self._per_s:g} requests a second; ask more slowly.",
                retry_after=(1.0 - left) / self._per_s,
            )


class AtOnce:
    """Requests of one client at the same time, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._running: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, client: str) -> Iterator[None]:
        """Hold a place.

        Raises:
            Refusal: 429 when the client has as many requests as it may have.
        """
        if self._running[client] >= self._most:
            raise Refusal(
                429,
                f"This token allows {self._most} requests at once; wait for an answer before asking again.",
                retry_after=1,
            )
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]


class Memory:
    """Bytes that bodies may take at once; what does not fit is refused at once, for waiting would take memory, too."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0

    @contextlib.contextmanager
    def for_body(self, size: int) -> Iterator[None]:
        """Hold room for a body; one that is larger than all there is gets in alone.

        Raises:
            Refusal: 503 when there is none.
        """
        if self._taken and self._taken + size > self._most:
            raise Refusal(503, "The service takes in as many uploads as it can hold; send it again.", retry_after=2)
        self._taken += size
        try:
            yield
        finally:
            self._taken -= size
