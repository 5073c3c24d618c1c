import math

import pytest
import torch
from scipy.special import expit, log_softmax, logit, softmax

from primia.attacks.membership_scores import (
    GAMMA,
    OFFLINE,
    Scores,
    by_patient,
    confidence,
    joined,
    lira,
    rmia,
)


def doubles(*values):
    return torch.tensor(values, dtype=torch.float64)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_lira_counts_deviations_above_models_that_did_not_see_an_image():
    # Means 2 and 1; squared distances 1 + 1 + 1 + 1 over (2 - 1) · 2 degrees of freedom: a deviation of √2.
    scores = lira(doubles(3, 0.5), torch.stack([doubles(1, 2), doubles(3, 0)]))
    assert scores.tolist() == pytest.approx([1 / math.sqrt(2), -0.5 / math.sqrt(2)])


def test_lira_is_larger_for_an_image_that_the_model_is_surer_of():
    references = drawn(4, 3)
    expected = references.mean(0)
    up, same, down = lira(expected + doubles(1, 0, -1), references).tolist()
    assert up > same > down
    assert same == pytest.approx(0, abs=1e-12) and up == pytest.approx(-down)


def test_lira_compares_each_image_with_the_reference_models_on_that_image():
    # The first image is easy for everybody, so being sure of it says nothing.
    references = torch.stack([doubles(9, -1), doubles(11, 1)])
    easy, hard = lira(doubles(10, 4), references).tolist()
    assert easy == pytest.approx(0) and hard > 2


def test_rmia_is_the_share_of_the_population_that_an_image_outweighs():
    target, references = drawn(5), drawn(3, 5, seed=1)
    population, population_references = drawn(7, seed=2), drawn(3, 7, seed=3)
    out = torch.tensor([[1, 0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 0, 0, 0]], dtype=torch.bool)
    found = rmia(target, references, population_target=population, population_references=population_references, out=out)

    def average(outside):
        return ((1 + OFFLINE) * outside + 1 - OFFLINE) / 2

    for image in range(5):
        mean = sum(expit(references[r, image].item()) for r in range(3)) / 3
        ratio = expit(target[image].item()) / average(mean)
        won = 0
        for z in range(7):
            outside = [expit(population_references[r, z].item()) for r in range(3) if out[r, z]]
            against = expit(population[z].item()) / average(sum(outside) / len(outside))
            won += ratio / against >= GAMMA
        assert found[image].item() == pytest.approx(won / 7)
    assert len(set(found.tolist())) > 1


def test_rmia_is_larger_for_an_image_that_the_model_is_surer_of():
    flat = torch.zeros(2, 1, dtype=torch.float64)
    scores = [
        rmia(
            doubles(sure),
            flat,
            population_target=doubles(-3, -1, 0, 1),
            population_references=flat.expand(2, 4),
            out=torch.ones(2, 4, dtype=torch.bool),
        ).item()
        for sure in (-4, 0, 4)
    ]
    # The population's probabilities are 0.05, 0.27, 0.5 and 0.73; 0.5 doubles the first, 0.98 two, 0.02 none.
    assert scores == [0.0, 0.25, 0.5]


def test_a_patient_has_the_mean_score_of_its_images_in_the_order_of_the_numbers():
    patients = torch.tensor([7, 2, 7, 5, 2, 7])
    assert by_patient(doubles(1, 10, 2, -4, 20, 6), patients).tolist() == [15, -4, 3]


def test_confidence_is_the_log_odds_of_the_true_class():
    logits, labels = drawn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = logit(softmax(logits.numpy(), axis=1)[range(6), labels])
    assert confidence(logits, labels).tolist() == pytest.approx(expected.tolist())


def test_confidence_of_a_mask_is_that_of_its_mean_loss():
    logits, labels = drawn(2, 3, 4, 4), torch.arange(32).view(2, 4, 4) % 3
    losses = -log_softmax(logits.numpy(), axis=1)
    picked = [[losses[i, labels[i, y, x], y, x] for y in range(4) for x in range(4)] for i in range(2)]
    expected = [logit(math.exp(-sum(each) / 16)) for each in picked]
    assert confidence(logits, labels).tolist() == pytest.approx(expected)


def test_confidence_tells_images_apart_that_are_known_by_heart():
    sure = confidence(torch.tensor([[60.0, 0.0], [80.0, 0.0], [900.0, 0.0]]), torch.tensor([0, 0, 0]))
    assert sure[:2].tolist() == pytest.approx([60, 80])
    assert bool(sure.isfinite().all()) and sure[2] > sure[1]


def test_scores_of_several_models_are_put_one_after_another():
    one = Scores(torch.tensor([True]), doubles(1), doubles(2))
    two = Scores(torch.tensor([False]), doubles(3), doubles(4))
    both = joined([one, two])
    assert (both.member.tolist(), both.lira.tolist(), both.rmia.tolist()) == ([True, False], [1, 3], [2, 4])
