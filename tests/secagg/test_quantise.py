import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ConfigError, FederationError
from primia.secagg.quantise import Quantiser, rounding_stream


def test_rounding_is_unbiased():
    quantiser = Quantiser(bits=8, limit=1.0)
    values = np.array([0.3, -0.7, 0.004, 0.9999, -0.001])
    draws = np.repeat(values, 40_000)
    integers, clipped = quantiser.quantise(draws, rounding_stream(1, round=1, site="north"))
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
    integers, clipped = quantiser.quantise(exact, rounding_stream(1, round=1, site="north"))
    step = limit / quantiser.levels
    assert clipped == sum(abs(v) > limit for v in values)
    assert np.abs(integers).max() <= quantiser.levels
    assert np.abs(quantiser.mean(integers, 1) - np.clip(exact, -limit, limit)).max() <= step * (1 + 1e-6)


def test_the_rounding_stream_depends_on_seed_round_and_site_alone():
    def draw(seed, round, site):
        return rounding_stream(seed, round=round, site=site).random()

    assert draw(1, 2, "north") == draw(1, 2, "north")
    assert len({draw(1, 2, "north"), draw(2, 2, "north"), draw(1, 3, "north"), draw(1, 2, "river")}) == 4


def test_an_update_that_is_not_finite_is_refused():
    with pytest.raises(FederationError, match="learning_rate"):
        Quantiser(bits=8, limit=1.0).quantise(np.array([0.0, np.nan]), rounding_stream(1, round=1, site="north"))


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
