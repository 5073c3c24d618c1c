import bisect
import math
from decimal import Decimal, getcontext, localcontext
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from primia.privacy import discrete_gaussian as dg
from primia.privacy.noise import SystemNoise

CHANCE = 1e-10  # of each statistical test to fail though all is well: the noise has no seed, on purpose


def words_of(numbers):
    """A word source that gives the first 64 bits of each number, then the other words of the first one."""
    words = [number >> 192 for number in numbers] + [numbers[0] >> shift & (2**64 - 1) for shift in (128, 64, 0)]

    def source(n):
        given, words[:n] = words[:n], []
        assert len(given) == n
        return np.array(given, dtype=np.uint64)

    return source


@pytest.fixture(scope="module")
def boundaries():
    """2^256 times P[X ≤ x] for every x but the last, in exact integers, from the definition."""
    with localcontext() as context:
        context.prec = 120
        weights = [(Decimal(-x * x) / (2 * dg.BASE**2)).exp() for x in range(-dg.CUT, dg.CUT + 1)]
        total, below, numbers = sum(weights), Decimal(0), []
        for weight in weights[:-1]:
            below += weight
            numbers.append(int(below / total * 2**256))
    return numbers


def test_the_table_holds_the_probabilities_of_the_definition():
    probabilities = dg.probabilities()
    getcontext().prec = 100
    assert abs(2 * sum(probabilities[1:], probabilities[0] / 2) - 1) < Decimal(10) ** -90
    # At this deviation the sum over the integers is the integral, to far more digits than float64 has.
    for x in (0, 1, 107, 540, 2000):
        assert float(probabilities[x]) == pytest.approx(stats.norm.pdf(x, scale=dg.BASE), rel=1e-12)


def test_a_number_becomes_the_value_whose_probability_it_falls_into(boundaries):
    for x in (-2000, -1999, -700, -400, -1, 0, 1, 399, 700, 1100, 1999):
        boundary = boundaries[x + dg.CUT]
        # The last two differ by one in 2^256: only the whole number tells on which side of the boundary they are.
        for number, value in ((boundary, x + 1), (boundary - 1, x)):
            assert dg.base_gaussian(words_of([number]), 1).tolist() == [value]
    assert dg.base_gaussian(words_of([0]), 1).tolist() == [-dg.CUT]
    assert dg.base_gaussian(words_of([2**256 - 1]), 1).tolist() == [dg.CUT]


def test_many_numbers_at_a_time_become_what_exact_inversion_says(boundaries):
    generator = np.random.default_rng(1)
    numbers = [int.from_bytes(generator.bytes(32), "big") for _ in range(30_000)]
    exact = [bisect.bisect_right(boundaries, number) - dg.CUT for number in numbers]
    assert dg.base_gaussian(words_of(numbers), len(numbers)).tolist() == exact


def test_every_first_half_word_leads_to_the_right_values(boundaries):
    """All 2^16 entries of the guide: the lowest and highest number of each bucket become what inversion says."""
    numbers = [bucket << 240 | end for bucket in range(2**16) for end in (1, 2**240 - 2**200)]
    exact = [bisect.bisect_right(boundaries, number) - dg.CUT for number in numbers]
    sparse = [number for number, value in zip(numbers, exact, strict=True) if abs(value) < 1000]
    assert len(sparse) > 131_000
    expected = [value for value in exact if abs(value) < 1000]
    assert dg.base_gaussian(words_of(sparse), len(sparse)).tolist() == expected


def test_two_values_combined_are_a_discrete_gaussian_again():
    base = np.array([float(p) for p in dg.probabilities()])
    base = np.concatenate([base[:0:-1], base])
    spread = np.zeros(dg.STRIDE * (len(base) - 1) + 1)
    spread[:: dg.STRIDE] = base
    combined = np.convolve(spread, base)
    x = np.arange(len(combined)) - len(combined) // 2
    deviation = dg.BASE * math.sqrt(1 + dg.STRIDE**2)
    near = np.abs(x) < 9 * deviation
    assert combined[near] == pytest.approx(stats.norm.pdf(x[near], scale=deviation), rel=1e-9)


def test_the_distance_claimed_is_the_distance_kept(boundaries):
    tail = 2 * Fraction(math.exp(-(dg.CUT**2) / (2 * dg.BASE**2)))  # of a subgaussian variable
    rounding = Fraction(len(boundaries), 2**256)
    smoothing = []
    for inner in (dg.BASE**2, dg.BASE**2 * (1 + dg.STRIDE**2)):  # variance of what is multiplied by the stride
        squared = 1 / (dg.STRIDE**2 / dg.BASE**2 + 1 / inner)
        smoothing.append(Fraction(3 * math.exp(-2 * math.pi**2 * squared)))
    assert 3 * (tail + rounding) + 2 * sum(smoothing) < Fraction(dg.TOTAL_VARIATION)


def test_the_noise_has_the_shape_and_the_deviation_it_is_accounted_for():
    values = SystemNoise().discrete(600_000).astype(np.float64)
    n = len(values)
    low, high = stats.chi2.interval(1 - CHANCE, n)
    assert low < (values**2).sum() / dg.DEVIATION**2 < high
    assert stats.kstest(values / dg.DEVIATION, "norm").pvalue > CHANCE
    assert 4.1 * dg.DEVIATION < np.abs(values).max() < 9 * dg.DEVIATION, "the tails are there, and no heavier"


@pytest.mark.parametrize("modulus", [2, 36, 256, 1296])
def test_the_noise_falls_on_every_residue_alike(modulus):
    counts = np.bincount(SystemNoise().discrete(200_000) % modulus, minlength=modulus)
    assert counts.min() > 0
    assert stats.chisquare(counts).pvalue > CHANCE


def test_the_base_has_its_exact_probabilities():
    n = 500_000
    values = dg.base_gaussian(SystemNoise()._words, n)
    half = np.array([float(p) for p in dg.probabilities()])
    exact = np.concatenate([half[:0:-1], half])
    common = exact * n >= 25
    counts = np.bincount(values + dg.CUT, minlength=len(exact))
    pooled = np.append(counts[common], counts[~common].sum())
    expected = np.append(exact[common], exact[~common].sum()) * n
    assert stats.chisquare(pooled, expected * n / expected.sum()).pvalue > CHANCE


def test_draws_are_independent_of_one_another():
    values = SystemNoise().discrete(2**18) / dg.DEVIATION
    for lag in (1, 2, 2**13, 2**14, 2**15):
        assert abs((values[lag:] * values[:-lag]).mean()) < 6.5 / (2**18 - lag) ** 0.5


@pytest.mark.parametrize("n", [0, 1, 5, 2**14, 2**14 + 3])
def test_there_are_as_many_draws_as_were_asked_for_and_none_alike(n):
    source = SystemNoise()
    first, second = source.discrete(n), source.discrete(n)
    assert first.shape == (n,) and first.dtype == np.int64
    assert np.abs(first).max(initial=0) <= dg.LARGEST < 2**31
    if n > 5:
        assert (first == second).mean() < 0.01
