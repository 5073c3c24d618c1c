import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from primia.errors import PrivacyError
from primia.privacy.discrete_gaussian import DEVIATION
from primia.privacy.noise import SystemNoise
from primia.privacy.shares import share_plan

CHANCE = 1e-10  # of a statistical test to fail though all is well
THREE = {"clip_norm": 1.0, "noise_multiplier": 2.0, "hospitals": 3, "threshold": 3, "curious": 1, "parameters": 46_739}


@given(
    clip=st.floats(1e-3, 1e3),
    noise=st.floats(0.3, 20.0),
    cohort=st.tuples(st.integers(1, 50), st.integers(1, 50), st.integers(0, 50)),
    parameters=st.integers(1, 1_000_000),
)
def test_the_honest_survivors_alone_carry_the_noise_asked_for(clip, noise, cohort, parameters):
    curious, honest, spare = cohort
    threshold, hospitals = curious + honest, curious + honest + spare
    share = share_plan(
        clip_norm=clip,
        noise_multiplier=noise,
        hospitals=hospitals,
        threshold=threshold,
        curious=curious,
        parameters=parameters,
    )
    carried = math.sqrt(honest) * share.deviation_steps * share.grid
    sensitivity = clip + math.sqrt(parameters) * share.grid
    assert carried / sensitivity == pytest.approx(noise) == pytest.approx(share.effective_noise_multiplier)
    assert share.clip_steps * share.grid == pytest.approx(clip)
    everything = math.sqrt(hospitals) * share.deviation_steps * share.grid
    assert share.total_noise_multiplier == pytest.approx(everything / clip)
    assert everything == pytest.approx(carried * math.sqrt(hospitals / honest))


def test_three_hospitals_with_a_curious_one_add_a_fifth_more_noise_than_one_place_would():
    share = share_plan(**THREE)
    assert 1.2247 < share.total_noise_multiplier / 2.0 < 1.235


def test_the_noise_actually_summed_is_what_the_accountant_is_told():
    share, sites, n = share_plan(**THREE), [SystemNoise() for _ in range(3)], 400_000
    clipped = np.zeros(n, dtype=np.int64)
    clipped[0] = round(-share.clip_steps)
    masked = [(noise.discrete(n) + clipped).astype(np.uint32) for noise in sites]  # modulo 2^32, as the masks are
    for members, multiplier in (((0, 1, 2), share.total_noise_multiplier), ((1, 2), None)):
        total = sum(masked[i] for i in members).astype(np.int32).astype(np.float64)
        noise = (total - len(members) * clipped) * share.grid
        within = (noise**2).sum() / len(members) / (DEVIATION * share.grid) ** 2
        low, high = stats.chi2.interval(1 - CHANCE, n)
        assert low < within < high
        deviation = math.sqrt((noise**2).mean())
        if multiplier is None:  # one site is curious and subtracts its share; the others carry it all
            sensitivity = THREE["clip_norm"] + math.sqrt(THREE["parameters"]) * share.grid
            assert deviation / sensitivity >= share.effective_noise_multiplier * math.sqrt(low / n)
        else:
            assert deviation / THREE["clip_norm"] == pytest.approx(multiplier, rel=0.01)


@pytest.mark.parametrize(
    ("hospitals", "threshold", "curious"), [(3, 3, 3), (3, 3, 0), (3, 4, 1), (3, 2, 2), (300, 201, 1)]
)
def test_a_cohort_without_an_honest_survivor_is_refused(hospitals, threshold, curious):
    with pytest.raises(PrivacyError, match="1 ≤ curious < threshold ≤ hospitals ≤ 256"):
        share_plan(**{**THREE, "hospitals": hospitals, "threshold": threshold, "curious": curious})


@pytest.mark.parametrize(("parameters", "noise"), [(2**24 + 1, 1.0), (12_000_000, 40.0)])
def test_a_vector_too_long_for_the_grid_is_refused(parameters, noise):
    with pytest.raises(PrivacyError, match=f"{parameters} parameters"):
        share_plan(**{**THREE, "parameters": parameters, "noise_multiplier": noise})


def test_a_large_model_pays_little_for_the_grid():
    share = share_plan(**{**THREE, "parameters": 12_000_000})
    assert share.total_noise_multiplier / 2.0 < 1.05 * math.sqrt(1.5)


def test_the_bits_needed_hold_the_patients_drawn_and_the_noise():
    share = share_plan(**THREE)
    bits = share.bits_needed(population=5000)
    everything = 5000 * share.clip_steps + 8.5 * math.sqrt(3) * DEVIATION
    assert 2 ** (bits - 2) < everything < 2 ** (bits - 1)
    assert bits <= 32
    assert share.bits_needed(population=5000, sampling_rate=0.1) == 28 == bits - 2
    share.check_headroom(population=5000)


def test_more_patients_than_32_bits_hold_are_refused():
    share = share_plan(**{**THREE, "noise_multiplier": 0.5})
    with pytest.raises(PrivacyError, match=r"over 20000 patients at noise multiplier 0\.5 needs 34 bits and has 32"):
        share.check_headroom(population=20_000)
    share.check_headroom(population=20_000, sampling_rate=0.05)


@given(population=st.integers(1, 10_000), rate=st.floats(0.01, 0.99))
def test_sampling_never_asks_for_more_bits(population, rate):
    share = share_plan(**THREE)
    assert share.bits_needed(population=population, sampling_rate=rate) <= share.bits_needed(population=population)
