"""What `clipped_sum` gives for networks that segment, beside three other ways to a gradient per patient."""

import math

import pytest
import torch
from opacus import GradSampleModule
from torch.func import functional_call, grad, vmap

from primia.models.networks import build_network
from primia.training import patient_gradients, private, recording
from primia.training.clipped_gradients import clipped_sum
from primia.training.objective import LOSSES, row_losses
from primia.training.private import clipped_gradient_sum, rows_at_a_time

CLASSES = 3
# Architecture, side, depth, weight standardisation.
NETWORKS = {
    "unet": ("unet", 16, None, False),
    "monet": ("monet", 16, None, False),
    "unet_resnet18": ("unet_resnet18", 32, None, False),
    "unet of volumes": ("unet", 8, 8, False),
    "monet of volumes": ("monet", 8, 4, False),
    "standardised unet": ("unet", 16, None, True),
    "standardised monet of volumes": ("monet", 8, 4, True),
}
SMALL = [name for name in NETWORKS if name != "unet_resnet18"]


def scene(name, n):
    architecture, side, depth, standardised = NETWORKS[name]
    head = build_network(
        architecture, classes=CLASSES, pixels=side, depth=depth, seed=0, weight_standardisation=standardised
    ).head
    sides = (side, side) if depth is None else (side, side, depth)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, 1, *sides, generator=generator)
    return head, rows, torch.randint(0, CLASSES, (n, *sides), generator=generator, dtype=torch.uint8)


def norm(gradient):
    return math.sqrt(sum(value.double().square().sum().item() for value in gradient.values()))


def clipped(singles, clip_norm):
    scales = [min(1.0, clip_norm / norm(single)) for single in singles]
    return {
        name: sum(scale * single[name].double() for scale, single in zip(scales, singles, strict=True))
        for name in singles[0]
    }


def loop(head, rows, masks, *, loss, clip_norm=1.0, views=1):
    """A backward pass for each patient."""
    singles = []
    for own, truth in zip(torch.split(rows, views), torch.split(masks.long(), views), strict=True):
        gradients = torch.autograd.grad(row_losses(head(own), truth, loss).mean(), list(head.parameters()))
        singles.append(dict(zip(dict(head.named_parameters()), gradients, strict=True)))
    return clipped(singles, clip_norm)


def largest_error(found, expected):
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_sum_is_that_of_a_loop_of_single_backward_passes(name, loss):
    head, rows, masks = scene(name, 2)
    found = clipped_sum(head, rows=rows, labels=masks, clip_norm=0.1, loss=loss)
    assert largest_error(found, loop(head, rows, masks, loss=loss, clip_norm=0.1)) <= 1e-6


@pytest.mark.parametrize("name", ["unet", "monet", "unet of volumes", "monet of volumes"])
def test_the_gradients_are_those_of_vmap_and_of_opacus(name):
    head, rows, masks = scene(name, 3)
    found = clipped_sum(head, rows=rows, labels=masks, clip_norm=0.1, loss="dice_cross_entropy")
    weights = {key: weight.detach() for key, weight in head.named_parameters()}

    def alone(weights, row, mask):
        return row_losses(functional_call(head, weights, row[None]), mask[None], "dice_cross_entropy").sum()

    each = vmap(grad(alone), in_dims=(None, 0, 0))(weights, rows, masks.long())
    expected = clipped([{key: value[i] for key, value in each.items()} for i in range(3)], 0.1)
    assert largest_error(found, expected) <= 1e-6

    sampled = GradSampleModule(head, loss_reduction="sum")
    row_losses(sampled(rows.requires_grad_()), masks.long(), "dice_cross_entropy").sum().backward()
    samples = {key: weight.grad_sample for key, weight in head.named_parameters()}
    expected = clipped([{key: value[i] for key, value in samples.items()} for i in range(3)], 0.1)
    assert largest_error(found, expected) <= 1e-6


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(("cost", "many"), [(0, 1), (0, 10**9), (10**9, 1)], ids=["called", "laid out", "factored"])
def test_every_way_to_a_convolutions_gradient_gives_the_same_sum_of_views(monkeypatch, name, cost, many):
    monkeypatch.setattr(patient_gradients, "_COST_OF_A_VALUE", cost)
    monkeypatch.setattr(recording, "_MANY_PLACES", many)
    head, rows, masks = scene(name, 4)
    for clip_norm in (0.1, 100.0):
        found = clipped_sum(head, rows=rows, labels=masks, clip_norm=clip_norm, views=2, loss="dice_cross_entropy")
        expected = loop(head, rows, masks, clip_norm=clip_norm, views=2, loss="dice_cross_entropy")
        assert largest_error(found, expected) <= 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SMALL)
def test_no_contribution_is_longer_than_the_clip_norm(name, precision):
    head, rows, masks = scene(name, 2)
    for i in range(2):
        options = {"clip_norm": 0.01, "precision": precision, "loss": "dice_cross_entropy"}
        alone = clipped_sum(head, rows=rows[i : i + 1], labels=masks[i : i + 1], **options)
        assert 0.0098 < norm(alone) <= 0.01


@pytest.mark.parametrize("name", ["unet", "monet", "monet of volumes"])
def test_bfloat16_is_no_further_from_float32_than_pytorchs_own_mixed_precision(name):
    head, rows, masks = scene(name, 2)
    exact = clipped_sum(head, rows=rows, labels=masks, clip_norm=1e9)
    rounded = clipped_sum(head, rows=rows, labels=masks, clip_norm=1e9, precision="bfloat16")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(rows).float()
    mixed = torch.autograd.grad(row_losses(logits, masks.long(), "cross_entropy").sum(), list(head.parameters()))
    mixed = dict(zip(exact, mixed, strict=True))
    assert all(value.dtype == torch.float32 for value in rounded.values())

    def error(found):
        return norm({key: found[key] - exact[key] for key in exact}) / norm(exact)

    assert 0 < error(rounded) < max(0.05, 1.5 * error(mixed))


def test_large_maps_go_through_a_few_at_a_time_and_add_up_to_the_same(monkeypatch):
    head, rows, masks = scene("unet", 5)
    sizes = {side: rows_at_a_time(head, pixels=side**2) for side in (32, 64, 128, 256, 1024)}
    assert sizes == {32: 64, 64: 64, 128: 16, 256: 4, 1024: 1}
    assert rows_at_a_time(head) == 64, "a diagnosis is one label"
    arguments = {"inputs": rows, "labels": masks, "patients_drawn": torch.arange(5), "clip_norm": 0.1, "loss": "dice"}
    whole = clipped_gradient_sum(head, **arguments)
    monkeypatch.setattr(private, "_MOST_PIXELS", 2 * 16**2)
    taken, sum_of = [], private.clipped_sum
    monkeypatch.setattr(
        private, "clipped_sum", lambda *args, rows, **kw: taken.append(len(rows)) or sum_of(*args, rows=rows, **kw)
    )
    parts = clipped_gradient_sum(head, **arguments)
    assert taken == [2, 2, 1]
    assert largest_error(parts, whole) <= 1e-6


def test_masks_are_changed_together_with_their_images():
    head, rows, masks = scene("unet", 2)
    drawn = torch.tensor([[1, 1], [0, 0]])

    def mirrored(images, truths):
        return images.flip(-1), truths.flip(-1)

    options = {"patients_drawn": drawn, "clip_norm": 0.1, "loss": "dice_cross_entropy"}
    found = clipped_gradient_sum(head, inputs=rows, labels=masks, augment=mirrored, **options)
    expected = clipped_gradient_sum(head, inputs=rows.flip(-1), labels=masks.flip(-1), **options)
    assert largest_error(found, expected) == 0
