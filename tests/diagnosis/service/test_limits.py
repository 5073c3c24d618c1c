import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.diagnosis.service.limits import AtOnce, Memory, Rate
from primia.diagnosis.service.refusals import Refusal


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(0.0, 3.0), max_size=200), st.integers(1, 5), st.floats(0.1, 5.0))
def test_a_bucket_never_gives_more_than_its_burst_and_what_flowed_in(pauses, burst, per_s) -> None:
    clock = Clock()
    rate = Rate(per_s=per_s, burst=burst, clock=clock)
    given_out = 0
    for pause in pauses:
        clock.now += pause
        with contextlib.suppress(Refusal):
            rate.take("a")
            given_out += 1
        assert given_out <= burst + clock.now * per_s + 1e-6


def test_who_waits_as_long_as_told_is_served() -> None:
    clock = Clock()
    rate = Rate(per_s=0.25, burst=1, clock=clock)
    rate.take("a")
    rate.take("b")
    with pytest.raises(Refusal, match="ask more slowly") as caught:
        rate.take("a")
    assert caught.value.status == 429
    assert caught.value.headers()["retry-after"] == "4"
    clock.now += 4
    rate.take("a")


def test_places_come_back_also_after_an_error() -> None:
    places = AtOnce(2)
    with places.one("a"), places.one("a"), pytest.raises(Refusal, match="2 requests at once"), places.one("a"):
        pass
    with contextlib.suppress(ZeroDivisionError), places.one("a"):
        raise ZeroDivisionError
    with places.one("a"), places.one("a"), places.one("b"):
        pass


def test_memory_is_bounded_but_a_large_body_may_come_alone() -> None:
    memory = Memory(100)
    with memory.for_body(60), memory.for_body(40), pytest.raises(Refusal, match="uploads") as caught:
        memory.for_body(1).__enter__()
    assert caught.value.status == 503
    with memory.for_body(1000), pytest.raises(Refusal), memory.for_body(1):
        pass
