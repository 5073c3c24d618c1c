import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.training.patient_gradients import Factored, Written

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
    assert torch.equal(factored.only(kept).squared_norms(scales[kept]), found[kept])


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
