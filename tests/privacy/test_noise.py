import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from primia.privacy.noise import SystemNoise


def test_the_noise_is_standard_normal():
    values = SystemNoise().normal((400, 1000)).double().flatten().numpy()
    # One in a million runs may fail: the noise has no seed, on purpose.
    assert stats.kstest(values, "norm").pvalue > 1e-6
    n = len(values)
    low, high = stats.chi2.interval(1 - 1e-6, n - 1)
    assert low < values.var(ddof=1) * (n - 1) < high
    assert abs(stats.kurtosis(values)) < 0.05
    assert np.abs(values).max() > 4.0, "the tails are there"


def test_values_are_independent_of_one_another():
    values = SystemNoise().normal((2**18,)).double()
    for lag in (1, 2**12, 2**13, 2**14, 2**16):
        correlation = (values[lag:] * values[:-lag]).mean().item()
        assert abs(correlation) < 6 / (2**18 - lag) ** 0.5
        squares = ((values[lag:] ** 2 - 1) * (values[:-lag] ** 2 - 1)).mean().item() / 2
        assert abs(squares) < 8 / (2**18 - lag) ** 0.5


@given(shape=st.lists(st.integers(0, 7), max_size=4).map(tuple))
def test_noise_has_the_shape_asked_for(shape):
    noise = SystemNoise().normal(shape)
    assert noise.shape == shape
    assert noise.dtype == torch.float64


def test_no_two_sources_and_no_two_draws_are_alike():
    first, second = SystemNoise(), SystemNoise()
    draws = [first.normal((1000,)), first.normal((1000,)), second.normal((1000,)), second.normal((1000,))]
    values = torch.cat(draws)
    assert len(torch.unique(values)) > 3990
    assert len(torch.unique(torch.cat([first.uniform(1000), second.uniform(1000)]))) == 2000


def test_threads_may_share_a_source_and_none_gets_what_another_got():
    source = SystemNoise()
    with ThreadPoolExecutor(4) as threads:
        values = torch.cat(list(threads.map(source.uniform, [200_000] * 16)))
    assert len(values.unique()) == len(values)


def test_uniform_values_fill_the_unit_interval():
    values = SystemNoise().uniform(200_000)
    assert values.dtype == torch.float64
    assert 0 <= values.min() < 1e-3
    assert 0.999 < values.max() < 1
    assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-6


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("draw", ["uniform", "discrete"])
def test_a_forked_process_cannot_repeat_the_noise(draw):
    noise = SystemNoise()
    child = os.fork()
    if child == 0:
        try:
            getattr(noise, draw)(1)
        except AssertionError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
