import numpy as np
import pytest
import torch

from primia.attacks.blind import SHUFFLES, blind_attack, describe


def features(patients, *, above=0.0, seed=0):
    return np.random.default_rng(seed).normal(above, 1, (patients, 5))


def attack(members, others):
    return blind_attack(members, others, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("above", [1.5, -1.5])
def test_a_shifted_split_is_found_whichever_way_it_is_shifted(above):
    auc, p = attack(features(60, above=above), features(40, seed=1))
    assert auc > 0.9
    assert p == 1 / (SHUFFLES + 1)


def test_patients_dealt_at_random_are_not_told_apart():
    found = [attack(features(60, seed=seed), features(40, seed=100 + seed)) for seed in range(6)]
    assert all(p > 0.01 for _, p in found)
    assert np.mean([auc for auc, _ in found]) == pytest.approx(0.5, abs=0.08)


def test_no_patient_is_judged_by_a_classifier_that_has_seen_it():
    # As many features as patients fit any memberships; only unseen patients show that there is nothing to learn.
    wide = np.random.default_rng(2).normal(size=(60, 200))
    auc, _ = attack(wide[:30], wide[30:])
    assert auc < 0.75


def test_a_patient_is_described_by_the_mean_of_its_images_their_classes_and_their_number():
    images = torch.zeros(3, 1, 16, 16)
    images[1] = 1.0
    described = describe(images, torch.tensor([0, 1, 1]), torch.tensor([4, 4, 9]), classes=2)
    first, second = described
    assert first[:64].tolist() == [0.5] * 64 and second[:64].tolist() == [0.0] * 64
    assert (first[64], first[79], second[64]) == (0.5, 0.5, 1.0)  # black and white shares
    assert first[-3:].tolist() == [0.5, 0.5, 2] and second[-3:].tolist() == [0, 1, 1]
