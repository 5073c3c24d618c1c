import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from primia.privacy.noise import SystemNoise
from primia.privacy.patient_sums import STEPS, NoisySum, weights_of


class NoNoise:
    """Only to look at what the noise is added to."""

    def normal(self, shape):
        return torch.zeros(tuple(shape))

    def uniform(self, n):
        raise AssertionError("a sum samples nobody")


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_every_patient_weighs_one_however_many_images(patients):
    patients = torch.tensor(patients)
    weights = weights_of(patients)
    for patient in patients.unique():
        assert float(weights[patients == patient].sum()) == pytest.approx(1.0)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.lists(st.floats(0, 500), min_size=3, max_size=3))
def test_one_patient_moves_the_rounded_sum_by_no_more_than_the_noise_is_made_for(patient, others):
    asked = NoisySum(entries=3, sensitivity=math.sqrt(3), noise_multiplier=1.0)
    without = asked.release(np.array(others), limit=2**30, noise=NoNoise())
    together = asked.release(np.array(others) + np.array(patient), limit=2**30, noise=NoNoise())
    assert np.linalg.norm(together - without) <= asked.deviation


def test_the_noise_has_the_promised_deviation_on_every_entry():
    asked = NoisySum(entries=9, sensitivity=1.0, noise_multiplier=3.0)
    exact = np.arange(9.0)
    noise = SystemNoise()
    drawn = np.stack([asked.release(exact, limit=2**30, noise=noise) for _ in range(4000)]) - exact * STEPS
    # 36,000 values: the deviation's own deviation is 0.37 %, the mean's 0.53 % of the deviation.
    assert asked.deviation == 3.0 * (STEPS + 3.0)
    assert drawn.std() == pytest.approx(asked.deviation, rel=0.03)
    assert abs(drawn.mean()) < 0.05 * asked.deviation
    assert np.abs(drawn).max() < asked.spread(1)
    entries = np.corrcoef(drawn.T) - np.eye(9)
    assert np.abs(entries).max() < 0.12


def test_what_leaves_its_share_of_the_word_is_cut_after_the_noise():
    asked = NoisySum(entries=2, sensitivity=1.0, noise_multiplier=1.0)
    assert asked.release(np.array([1e9, -1e9]), limit=1000, noise=SystemNoise()).tolist() == [1000, -1000]
