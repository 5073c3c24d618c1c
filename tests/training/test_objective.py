import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceCELoss, DiceLoss
from torch.nn import functional

from primia.training.objective import LOSSES, balanced_weights, learning_rate_of, row_losses


def test_balanced_weights_let_every_class_count_the_same_and_keep_the_mean_at_one():
    counts = (10, 30, 60)
    weights = balanced_weights(counts)
    assert weights == pytest.approx((100 / 30, 100 / 90, 100 / 180))
    assert sum(count * weight for count, weight in zip(counts, weights, strict=True)) / 100 == pytest.approx(1.0)


def test_a_class_without_images_weighs_nothing():
    weights = balanced_weights((10, 0, 30))
    assert weights[1] == 0.0
    assert (10 * weights[0] + 30 * weights[2]) / 40 == pytest.approx(1.0)


def test_a_constant_schedule_keeps_the_learning_rate():
    assert {learning_rate_of(0.3, "constant", round=round, rounds=7) for round in range(1, 8)} == {0.3}


def test_a_cosine_schedule_begins_at_the_learning_rate_and_falls_towards_zero():
    rates = [learning_rate_of(0.4, "cosine", round=round, rounds=4) for round in range(1, 5)]
    assert rates == pytest.approx([0.4, 0.2 * (1 + math.sqrt(0.5)), 0.2, 0.2 * (1 - math.sqrt(0.5))])
    assert learning_rate_of(0.4, "cosine", round=1, rounds=1) == 0.4


def scored(*spatial, n=3, classes=4, seed=0):
    """Logits, and masks in which each class may be missing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (n, *spatial), generator=generator)
    return torch.randn(n, classes, *spatial, generator=generator), labels


@given(
    spatial=st.sampled_from([(5, 6), (1, 1), (3, 4, 2)]),
    classes=st.integers(2, 4),
    loss=st.sampled_from(LOSSES),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_a_row_loses_what_it_would_lose_alone(spatial, classes, loss, seed):
    logits, labels = scored(*spatial, classes=classes, seed=seed)
    whole = row_losses(logits, labels, loss)
    alone = [row_losses(logits[i : i + 1], labels[i : i + 1], loss) for i in range(len(logits))]
    assert whole.shape == (3,)
    assert torch.allclose(whole, torch.cat(alone), atol=1e-6)


@pytest.mark.parametrize("spatial", [(6, 5), (4, 3, 5)])
def test_the_dice_losses_are_those_of_monai_with_one_pixel_added(spatial):
    logits, labels = scored(*spatial)
    labels[1] = 0  # nothing to be found
    options = {"include_background": False, "to_onehot_y": True, "softmax": True, "smooth_nr": 1.0, "smooth_dr": 1.0}
    theirs = DiceLoss(**options, reduction="none")(logits, labels[:, None]).flatten(1).mean(dim=1)
    assert torch.allclose(row_losses(logits, labels, "dice"), theirs, atol=1e-6)
    both = DiceCELoss(**options)(logits, labels[:, None])
    assert torch.allclose(row_losses(logits, labels, "dice_cross_entropy").mean(), both, atol=1e-6)


def test_the_cross_entropy_of_a_mask_is_the_mean_over_its_pixels():
    logits, labels = scored(6, 5)
    expected = functional.cross_entropy(logits, labels, reduction="none").mean(dim=(1, 2))
    assert torch.allclose(row_losses(logits, labels, "cross_entropy"), expected)
    flat, classes = scored()
    assert torch.equal(
        row_losses(flat, classes, "cross_entropy"), functional.cross_entropy(flat, classes, reduction="none")
    )


def test_a_perfect_answer_costs_nothing_also_where_there_is_nothing_to_be_found():
    for labels in (torch.zeros(1, 4, 4, dtype=torch.int64), scored(4, 4, n=1, classes=2)[1]):
        right = 100.0 * functional.one_hot(labels, 2).movedim(-1, 1)
        for loss in LOSSES:
            assert row_losses(right, labels, loss) == pytest.approx(0.0, abs=1e-6)
            assert row_losses(-right, labels, loss) > 0.9


def test_no_pixel_of_an_empty_mask_pulls_harder_than_one():
    """With the usual smoothing of 1e-5 the slope at an almost right answer would be 100,000 times as steep."""
    logits = torch.stack([torch.full((8, 8), 12.0), torch.zeros(8, 8)])[None].requires_grad_()
    loss = row_losses(logits, torch.zeros(1, 8, 8, dtype=torch.int64), "dice")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    found = torch.softmax(logits, dim=1)[:, 1].sum()
    assert 0 < gradient.abs().sum() <= 2 * found


def test_dice_is_refused_for_diagnoses():
    with pytest.raises(AssertionError):
        row_losses(*scored(), "dice")
