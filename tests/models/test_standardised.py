import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from primia.models.standardised import StandardisedConv2d
from primia.training.private import private_gradient


def convolution(seed, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return StandardisedConv2d(2, 5, 3, padding=1, bias=False, **options)


@given(st.integers(0, 10_000), st.floats(0.01, 100.0), st.floats(-10.0, 10.0))
@settings(max_examples=30, deadline=None)
def test_filters_have_mean_zero_and_norm_one_whatever_their_scale_and_offset(seed, scale, offset):
    layer = convolution(seed).double()
    before = layer.standardised().detach()
    with torch.no_grad():
        layer.weight.mul_(scale).add_(offset)
    filters = layer.standardised().detach().flatten(1)
    assert torch.allclose(filters.sum(dim=1), torch.zeros(5, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(filters.norm(dim=1), torch.ones(5, dtype=torch.float64))
    assert torch.allclose(filters, before.flatten(1), atol=1e-9)


def test_it_is_a_plain_convolution_with_the_standardised_weight():
    layer = convolution(1, stride=2)
    maps = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(maps), functional.conv2d(maps, layer.standardised(), stride=2, padding=1))


def test_private_training_clips_the_gradient_of_the_raw_weights():
    head = nn.Sequential(convolution(5), nn.Flatten(), nn.Linear(5 * 36, 3))
    inputs = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    clip = 0.5
    expected = {name: torch.zeros_like(weight) for name, weight in head.named_parameters()}
    for image, label in zip(inputs, labels, strict=True):
        loss = functional.cross_entropy(head(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))
        assert norm > clip, "the clipping must have something to do"
        for total, gradient in zip(expected.values(), gradients, strict=True):
            total += gradient * clip / norm
    released = private_gradient(
        head,
        inputs=inputs,
        labels=labels,
        patients_drawn=range(6),
        clip_norm=clip,
        noise_multiplier=0.0,
        expected_batch=1.0,
        noise=None,
    )
    for name, value in released.items():
        assert torch.allclose(value, expected[name], rtol=1e-3, atol=1e-5), name
