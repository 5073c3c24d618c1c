import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.models.standardised import SMALLEST_NORM, StandardisedConv2d
from primia.training.patient_gradients import Factored, Standardised, Written

SIZES = st.integers(1, 9)


@given(t=SIZES, d=SIZES, p=SIZES, seed=st.integers(0, 2**31), offset=st.floats(0, 30), rounded=st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_never_written_out_has_the_norms_and_the_sum_of_what_would_be(t, d, p, seed, offset, rounded):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(3, t, d, generator=generator) + offset
    outputs = torch.randn(3, t, p, generator=generator)
    scales = torch.rand(3, generator=generator)
    if rounded:
        inputs, outputs = inputs.bfloat16().float(), outputs.bfloat16().float()
    factored = Factored(inputs, outputs, rounded=rounded)
    used = (outputs * scales[:, None, None]).bfloat16() if rounded else outputs * scales[:, None, None]
    shares = torch.bmm(used.double().mT, inputs.double())
    squares = shares.square().sum(dim=(1, 2))
    found = factored.squared_norms(scales)
    size = (inputs.double().norm(dim=2) * used.double().norm(dim=2)).sum(dim=1).square()
    assert (found >= squares * (1 - 1e-12)).all(), "a norm that is too small lets a patient through"
    assert (found <= squares + 4e-6 * size).all()
    assert torch.allclose(
        factored.weighted_sum(scales).double(), shares.sum(dim=0), atol=1e-5 * size.max().sqrt().item()
    )
    kept = torch.tensor([True, False, True])
    # Not bit for bit: some processors round a batched product otherwise when the batch has another size.
    again, limit = factored.only(kept).squared_norms(scales[kept]), 4e-6 * size[kept]
    assert ((again - found[kept]).abs() <= limit).all()


@given(numbers=st.integers(1, 40), seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_written_gradients_of_bfloat16_are_measured_and_added_in_float32(numbers, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4, numbers, 3, generator=generator).bfloat16()
    scales = torch.rand(4, generator=generator)
    shares = values.double() * scales.double()[:, None, None]
    written = Written(values)
    assert torch.allclose(written.squared_norms(scales), shares.square().sum(dim=(1, 2)), rtol=1e-5)
    assert torch.allclose(written.weighted_sum(scales).double(), shares.sum(dim=0), atol=1e-5)
    assert written.weighted_sum(scales).dtype == torch.float32


def standardised(seed, *, t, d, p, form, flattened=False):
    """Gradients of three patients for p filters of d values; the weights' true ones; what may cancel in their norms."""
    generator = torch.Generator().manual_seed(seed)
    layer = StandardisedConv2d(d, p, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(p, d, 1, 1, generator=generator))
        if flattened:
            layer.weight[0].mul_(1e-2 * SMALLEST_NORM)
    inputs, outputs = torch.randn(3, t, d, generator=generator), torch.randn(3, t, p, generator=generator)
    values = torch.bmm(outputs.mT, inputs)
    used = Written(values) if form == "written" else Factored(inputs, outputs, rounded=False)
    directions, lengths = layer.directions()
    exact = StandardisedConv2d(d, p, 1, bias=False).double()
    exact.load_state_dict(layer.state_dict())
    expected = [
        torch.autograd.grad((exact.standardised().flatten(1) * one.double()).sum(), exact.weight)[0].flatten(1)
        for one in values
    ]
    cancelling = (outputs.abs() * inputs.norm(dim=2, keepdim=True)).sum(dim=1).square() / lengths.square()
    return Standardised(used, directions.flatten(1), lengths), torch.stack(expected), cancelling.sum(dim=1)


@pytest.mark.parametrize("form", ["written", "factored"])
@given(t=SIZES, d=st.integers(2, 9), p=SIZES, seed=st.integers(0, 2**31), flattened=st.booleans())
@settings(max_examples=40, deadline=None)
def test_standardised_filters_have_the_norms_and_the_sum_of_gradients_that_autograd_pulls_back(
    form, t, d, p, seed, flattened
):
    gradients, expected, cancelling = standardised(seed, t=t, d=d, p=p, form=form, flattened=flattened)
    scales = torch.tensor([0.3, 1.0, 0.7])
    shares = expected * scales.double()[:, None, None]
    squares, found = shares.square().sum(dim=(1, 2)), gradients.squared_norms(scales)
    assert (found >= squares * (1 - 1e-6)).all(), "a norm that is too small lets a patient through"
    assert (found <= squares * (1 + 1e-6) + 4e-6 * cancelling).all()
    error = (gradients.weighted_sum(scales).double() - shares.sum(dim=0)).abs().max()
    assert error <= 1e-5 * cancelling.max().sqrt()
    kept = torch.tensor([True, False, True])
    again = gradients.only(kept).squared_norms(scales[kept])
    assert ((again - found[kept]).abs() <= 4e-6 * cancelling[kept]).all()
    assert len(gradients.only(torch.zeros(3, dtype=torch.bool)).squared_norms(scales[:0])) == 0


@pytest.mark.parametrize("form", ["written", "factored"])
def test_a_gradient_along_the_filter_or_its_mean_moves_no_weight_and_has_no_length(form):
    layer = StandardisedConv2d(8, 1, 1, bias=False)
    directions, lengths = layer.directions()
    inputs = torch.stack([directions.flatten(1), torch.ones(1, 8)])
    used = Written(inputs) if form == "written" else Factored(inputs, torch.ones(2, 1, 1), rounded=False)
    gradients = Standardised(used, directions.flatten(1), lengths)
    assert (gradients.squared_norms(torch.ones(1)) <= 1e-5 * 8 / lengths.square()).all()
    assert (gradients.weighted_sum(torch.ones(2)).abs() <= 1e-5 / lengths).all()
