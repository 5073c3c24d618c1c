import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from primia.errors import PrivacyError
from primia.models.blocks import ResidualBlock
from primia.models.networks import build_network
from primia.models.standardised import StandardisedConv2d
from primia.training import patient_gradients
from primia.training.clipped_gradients import clip_and_add, clipped_sum
from primia.training.patient_gradients import Factored, Written


def norm(gradient):
    return math.sqrt(sum(value.double().square().sum().item() for value in gradient.values()))


def patient_gradient(head, rows, labels):
    """The gradient of the mean cross-entropy of one patient's rows, from a backward pass of its own."""
    loss = functional.cross_entropy(head(rows), labels)
    return dict(zip(dict(head.named_parameters()), torch.autograd.grad(loss, list(head.parameters())), strict=True))


def loop(head, rows, labels, *, clip_norm=1.0, views=1):
    patients = zip(torch.split(rows, views), torch.split(labels, views), strict=True)
    singles = [patient_gradient(head, *each) for each in patients]
    scales = [min(1.0, clip_norm / norm(single)) for single in singles]
    return {
        name: sum(scale * single[name].double() for scale, single in zip(scales, singles, strict=True))
        for name in singles[0]
    }


def largest_error(found, expected):
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    return max((found[name] - expected[name]).abs().max().item() for name in expected)


def batch(*shape, seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randint(0, classes, shape[:1], generator=generator)


def convolutional(**changes):
    """Two convolutions with all that a convolution may have, and every other layer with parameters."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, (3, 5), stride=(2, 1), padding=(1, 2), **changes),
        nn.GroupNorm(4, 8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, dilation=2, padding=1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 3),
    )


def standardised():
    """Standardised convolutions, of which some are quicker written out and some never written."""
    torch.manual_seed(0)
    return nn.Sequential(
        StandardisedConv2d(1, 32, 3, stride=2, padding=1, bias=False),
        ResidualBlock(32, 32, stride=1),
        StandardisedConv2d(32, 4, 3),
        nn.Flatten(),
        nn.Linear(64, 3),
    )


HEADS = {
    "resnet18": (lambda: build_network("resnet18", classes=3, pixels=32, seed=0).head, (2, 1, 32, 32)),
    "convnet": (lambda: build_network("convnet", classes=3, pixels=32, seed=0).head, (5, 1, 32, 32)),
    "scattering": (lambda: build_network("scattering", classes=3, pixels=32, seed=0).head, (5, 217, 4, 4)),
    "every option": (convolutional, (5, 1, 12, 12)),
    "sequence": (lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)), (5, 6, 4)),
    "standardised": (standardised, (5, 1, 12, 12)),
    "one layer": (lambda: nn.Linear(7, 3), (5, 7)),
}


@pytest.mark.parametrize("name", HEADS)
def test_the_sum_is_that_of_a_loop_of_single_backward_passes(name):
    make, shape = HEADS[name]
    head, (rows, labels) = make(), batch(*shape)
    found = clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0)
    assert largest_error(found, loop(head, rows, labels)) <= 1e-5


@pytest.mark.parametrize("cost", [0, math.inf], ids=["written out", "factored"])
@pytest.mark.parametrize("name", ["convnet", "every option", "sequence", "standardised"])
@pytest.mark.parametrize("views", [1, 3])
def test_both_forms_of_a_gradient_give_the_same_sum(monkeypatch, cost, name, views):
    monkeypatch.setattr(patient_gradients, "_COST_OF_A_VALUE", cost)
    make, shape = HEADS[name]
    head, (rows, labels) = make(), batch(6, *shape[1:])
    for clip_norm in (0.1, 100.0):
        found = clipped_sum(head, rows=rows, labels=labels, clip_norm=clip_norm, views=views)
        expected = loop(head, rows, labels, clip_norm=clip_norm, views=views)
        assert largest_error(found, expected) <= 1e-5 * max(1.0, clip_norm / 10)


@pytest.mark.parametrize("architecture", ["scattering", "convnet", "resnet18"])
def test_no_patients_gradients_outlive_the_sum(architecture):
    network = build_network(architecture, classes=3, pixels=32, seed=1)
    rows = network.front(torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)))
    found = clipped_sum(network.head, rows=rows, labels=torch.tensor([0, 1]), clip_norm=1.0)
    assert not any(value.requires_grad for value in found.values())  # a graph would hold them


def test_views_are_averaged_before_they_are_clipped():
    head, (rows, labels) = HEADS["convnet"][0](), batch(6, 1, 32, 32)
    labels = labels[::3].repeat_interleave(3)
    found = clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0, views=3)
    assert largest_error(found, loop(head, rows, labels, views=3)) <= 1e-5
    assert largest_error(found, loop(head, rows, labels)) > 1e-2
    same = clipped_sum(head, rows=rows[::3].repeat_interleave(3, 0), labels=labels, clip_norm=1.0, views=3)
    assert largest_error(same, loop(head, rows[::3], labels[::3])) <= 1e-5


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", HEADS)
def test_no_contribution_is_longer_than_the_clip_norm(name, precision):
    make, shape = HEADS[name]
    head, (rows, labels) = make(), batch(2, *shape[1:])
    for clip_norm in (1.0, 0.01):
        for row, label in zip(rows, labels, strict=True):
            alone = clipped_sum(head, rows=row[None], labels=label[None], clip_norm=clip_norm, precision=precision)
            assert 0.98 * clip_norm < norm(alone) <= clip_norm


@pytest.mark.parametrize(
    ("name", "rounding"),
    # What pulling back takes out of a gradient takes no rounding with it.
    [("convnet", 0.05), ("every option", 0.05), ("scattering", 0.05), ("standardised", 0.1)],
)
def test_bfloat16_is_the_same_gradient_up_to_its_rounding(name, rounding):
    make, shape = HEADS[name]
    head, (rows, labels) = make(), batch(*shape)
    exact = clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0)
    rounded = clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0, precision="bfloat16")
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert norm({name: rounded[name] - exact[name] for name in exact}) < rounding * norm(exact)


def test_a_scale_that_rounds_a_cancelling_gradient_above_the_clip_norm_is_taken_back():
    """Two places that all but cancel: scaled and rounded to 8 bits, their difference can be twice what it was."""
    places = torch.tensor([[[1.0], [-1.0078125]]])  # neighbours in bfloat16
    gradient = Factored(torch.full((1, 2, 1), 1024.0), places, rounded=True)
    lifted = 0
    for clip_norm in torch.linspace(0.5, 7.5, 57).tolist():
        alone = gradient.weighted_sum(torch.tensor([clip_norm / 8.0])).abs().item()  # 8 is its norm
        lifted += alone > 1.2 * clip_norm
        assert clip_and_add({"weight": gradient}, clip_norm=clip_norm)["weight"].abs().item() <= clip_norm
    assert lifted > 10


def test_products_of_bfloat16_are_summed_in_float32():
    """A sum that is itself rounded to bfloat16 would differ by far more than one patient's clip norm."""
    patients = 300
    inputs, outputs = torch.ones(patients, 1, 2), torch.ones(patients, 1, 2)
    gradient = Factored(inputs, outputs, rounded=True)
    total = gradient.weighted_sum(torch.ones(patients))
    assert torch.equal(total, torch.full((2, 2), float(patients) + 0.0))
    written = Written(torch.ones(patients, 2, 2, dtype=torch.bfloat16))
    assert torch.equal(written.weighted_sum(torch.ones(patients)), total)
    assert torch.backends.mkldnn.matmul.fp32_precision == "none"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_image_without_a_finite_gradient_counts_as_zero(value, precision):
    head, (rows, labels) = HEADS["convnet"][0](), batch(3, 1, 32, 32)
    rows[1, 0, 5, 5] = value
    broken = clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0, precision=precision)
    whole = clipped_sum(head, rows=rows[::2], labels=labels[::2], clip_norm=1.0, precision=precision)
    assert largest_error(broken, whole) <= 1e-5
    none = clipped_sum(head, rows=rows[1:2], labels=labels[1:2], clip_norm=1.0, precision=precision)
    assert norm(none) == 0


def refused(head, *shape):
    rows, labels = batch(*shape)
    with pytest.raises(PrivacyError) as error:
        clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0)
    assert not any("forward" in vars(module) for module in head.modules())
    return str(error.value)


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False), nn.InstanceNorm2d(4, track_running_stats=True)]
)
def test_a_layer_that_mixes_samples_is_named_with_its_replacement(layer):
    told = refused(nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(144, 3)), 4, 1, 8, 8)
    assert f"layer 1 ({type(layer).__name__}) mixes the samples" in told
    assert "GroupNorm" in told


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(1, 1, 3, padding=1),
        nn.LayerNorm(8),
        nn.PReLU(),
    ],
)
def test_a_layer_whose_gradients_are_not_known_is_named(layer):
    told = refused(nn.Sequential(layer, nn.Flatten(), nn.Linear(64, 3)), 4, 1, 8, 8)
    assert f"layer 0 ({type(layer).__name__}) has parameters" in told
    assert "use nn.Linear" in told


def test_a_convolution_in_groups_is_refused():
    told = refused(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 3)), 4, 2, 8, 8)
    assert "one group" in told


def test_parameters_that_two_layers_share_are_refused():
    head = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    head[1].weight = head[0].weight
    assert "layer 1 (Linear) shares a parameter with the layer 0" in refused(head, 4, 3)


def test_a_layer_that_is_used_twice_is_refused():
    layer = nn.Linear(3, 3)
    assert "used twice" in refused(nn.Sequential(layer, nn.ReLU(), layer), 4, 3)
