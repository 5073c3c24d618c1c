import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ConfigError, FederationError
from primia.secagg.quantise import Quantiser, rounding_stream
from primia.secagg.vector import Layout, Part

DRAWS = 1 << 16


def stream(seed=1, round=1, site="north"):
    return rounding_stream(seed, round=round, site=site)


class EveryDraw:
    """A stream that goes through all 16-bit words in order, so that an average over it is an expectation."""

    next = 0

    def fill(self, buffer, size):
        words = np.arange(self.next, self.next + size // 2) % DRAWS
        buffer[:size] = words.astype("<u2").tobytes()
        self.next += size // 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("bits", [8, 20, 28])
@pytest.mark.parametrize("share", [0.0, 1e-9, -1e-9, 0.3, -0.7, 0.004, 1 / 3, -0.9999, 0.99999, 1.0, -1.0])
def test_the_expectation_is_the_value_within_a_stated_bound(bits, share, dtype):
    quantiser = Quantiser(bits=bits, limit=0.25)
    value = dtype(share * quantiser.limit)
    integers, clipped = quantiser.quantise(np.full(DRAWS, value), EveryDraw())
    exact = float(value) * quantiser.levels / quantiser.limit  # in steps of the grid
    assert clipped == 0
    assert set(integers.tolist()) <= {int(np.floor(exact)), int(np.ceil(exact))}
    assert abs(integers.mean(dtype=np.float64) - exact) < 2**-15


@pytest.mark.parametrize("bits", [8, 20, 28])
@pytest.mark.parametrize("limit", [0.25, 0.1, 1 / 3, 7.3])
def test_the_limit_itself_is_not_moved(bits, limit):
    quantiser = Quantiser(bits=bits, limit=limit)
    for value, level in ((limit, quantiser.levels), (-limit, -quantiser.levels), (0.0, 0)):
        integers, clipped = quantiser.quantise(np.full(DRAWS, value), EveryDraw())
        assert set(integers.tolist()) == {level}
        assert clipped == 0


def test_rounding_is_unbiased_with_a_real_stream():
    quantiser = Quantiser(bits=8, limit=1.0)
    values = np.array([0.3, -0.7, 0.004, 0.9999, -0.001])
    integers, clipped = quantiser.quantise(np.repeat(values, 40_000), stream())
    means = quantiser.mean(integers.reshape(5, -1).sum(axis=1), 40_000)
    step = 1.0 / quantiser.levels
    assert clipped == 0
    # five standard errors of a coin with the worst variance of 1/4 step
    np.testing.assert_allclose(means, values, atol=5 * 0.5 * step / np.sqrt(40_000))


@given(
    values=st.lists(st.floats(-2, 2), min_size=1, max_size=40),
    bits=st.integers(8, 28),
    limit=st.floats(1e-3, 10),
)
@settings(max_examples=100, deadline=None)
def test_an_integer_lies_within_one_step_of_the_clipped_value(values, bits, limit):
    quantiser = Quantiser(bits=bits, limit=limit)
    exact = np.array(values)
    integers, clipped = quantiser.quantise(exact, stream())
    step = limit / quantiser.levels
    assert clipped == sum(abs(v) > limit for v in values)
    assert np.abs(integers).max() <= quantiser.levels
    assert np.abs(quantiser.mean(integers, 1) - np.clip(exact, -limit, limit)).max() <= step * (1 + 1e-6)


def test_values_beyond_the_limit_become_the_limit_and_are_counted():
    quantiser = Quantiser(bits=8, limit=0.5)
    values = np.zeros(100_000)
    values[[0, 32_767, 32_768, 99_999]] = [0.6, -7.0, 1.7e308, -0.5000001]  # ends of blocks
    integers, clipped = quantiser.quantise(values, stream())
    assert clipped == 4
    assert integers[[0, 32_767, 32_768, 99_999]].tolist() == [127, -127, 127, -127]
    assert np.count_nonzero(integers) == 4


def test_a_float32_value_is_compared_with_the_limit_unrounded():
    limit = 0.1  # float32(0.1) is greater
    _, clipped = Quantiser(bits=8, limit=limit).quantise(np.array([limit, -limit], dtype=np.float32), stream())
    assert clipped == 2


def test_quantised_integers_are_known_answers():
    # The stream is part of the protocol: the same seeds give the same integers with every version of every library.
    integers, _ = Quantiser(bits=12, limit=1.0).quantise(np.linspace(-0.9, 0.9, 8), stream(7, 3, "river"))
    assert integers.dtype == np.int32
    assert integers.tolist() == KNOWN


KNOWN = [-1843, -1315, -789, -263, 263, 789, 1316, 1843]


def test_the_rounding_stream_depends_on_seed_round_and_site_alone():
    def draw(seed, round, site):
        return tuple(Quantiser(bits=20, limit=1.0).quantise(np.full(64, 1e-6), stream(seed, round, site))[0].tolist())

    assert draw(1, 2, "north") == draw(1, 2, "north")
    assert len({draw(1, 2, "north"), draw(2, 2, "north"), draw(1, 3, "north"), draw(1, 2, "river")}) == 4


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 40_000, 69_999])
def test_an_update_that_is_not_finite_is_refused(bad, position):
    values = np.zeros(70_000)
    values[position] = bad
    with pytest.raises(FederationError, match="learning_rate"):
        Quantiser(bits=8, limit=1.0).quantise(values, stream())


def test_an_empty_update_has_no_integers():
    integers, clipped = Quantiser(bits=8, limit=1.0).quantise(np.zeros(0), stream())
    assert (len(integers), clipped) == (0, 0)


@pytest.mark.parametrize("weight", [0, 1, 37, 4096])
def test_the_weight_multiplies_the_rounded_integers(weight):
    quantiser, values = Quantiser(bits=20, limit=0.25), np.random.default_rng(1).normal(0, 0.1, 70_000)
    plain, clipped = quantiser.quantise(values, stream())
    weighted, clipped_too = quantiser.quantise(values, stream(), weight=weight)
    np.testing.assert_array_equal(weighted, plain.astype(np.int64) * weight)
    assert clipped == clipped_too


def test_a_weight_that_leaves_no_room_is_refused():
    quantiser = Quantiser(bits=20, limit=0.25)
    quantiser.quantise(np.ones(1), stream(), weight=4096)
    with pytest.raises(FederationError, match="no room in 32 bits"):
        quantiser.quantise(np.ones(1), stream(), weight=4097)


def test_integers_are_written_into_the_vector_they_are_sent_in():
    quantiser, values = Quantiser(bits=20, limit=0.25), np.random.default_rng(1).normal(0, 0.1, 70_000)
    layout = Layout((Part("delta", len(values), 5 * quantiser.levels, signed=True), Part("weight", 1, 5)))
    vector = layout.empty()
    quantiser.quantise(values, stream(), weight=3, out=layout.signed_part(vector, "delta"))
    layout.pack({"weight": 3}, into=vector)
    integers, _ = quantiser.quantise(values, stream())
    np.testing.assert_array_equal(vector, layout.pack({"delta": integers.astype(np.int64) * 3, "weight": 3}))


@pytest.mark.parametrize(
    ("bits", "weight", "fits"), [(20, 4096, True), (20, 4097, False), (28, 16, True), (28, 17, False)]
)
def test_bits_and_total_weight_must_fit_a_word(bits, weight, fits):
    quantiser = Quantiser(bits=bits, limit=1.0)
    if fits:
        quantiser.check_headroom(weight)
        assert weight * quantiser.levels <= 2**31 - 1
    else:
        with pytest.raises(ConfigError, match=f"set secure_aggregation.bits to {bits - 1} or less"):
            quantiser.check_headroom(weight)
