import numpy as np
import pytest
import torch

from primia.encrypted.parameters import MODULUS_BITS, SLOTS
from primia.encrypted.plan import LARGEST_LOGIT, Plan, compile_network
from primia.errors import EncryptionError


def deep_plan(*, layers: int) -> Plan:
    return Plan(matrices=(np.eye(4),) * layers, offsets=(np.zeros(4),) * layers, largest=(1.0,) * layers)


def test_the_folded_plan_is_the_network(make_network) -> None:
    network = make_network(pixels=7, hidden=12, classes=4)
    inputs = torch.randn(20, 49)
    np.testing.assert_allclose(
        compile_network(network).logits(inputs.double().numpy()), network(inputs).detach().numpy(), atol=1e-4
    )


def test_the_parameters_have_128_bit_security_and_a_level_per_multiplication(small) -> None:
    parameters = small.bundle.plan.parameters
    assert sum(parameters.modulus_bits) <= MODULUS_BITS
    assert parameters.levels == 5


def test_a_shallower_plan_gets_a_larger_scale() -> None:
    assert deep_plan(layers=2).parameters.scale_bits > deep_plan(layers=3).parameters.scale_bits


def test_keys_are_asked_for_exactly_the_rotations_that_are_made(small) -> None:
    steps = {step for packed in small.bundle.plan.maps for step in packed.rotations}
    assert set(small.bundle.plan.parameters.galois_elements) == {pow(3, step, 4 * SLOTS) for step in steps}


def test_describe_tells_layers_and_parameters(small) -> None:
    table = small.bundle.plan.describe()
    assert "64 -> 16" in table
    assert "16 -> 3" in table
    assert "5 levels at scale 2^28" in table


def test_too_many_pixels_are_refused_at_the_first_layer(make_network) -> None:
    with pytest.raises(EncryptionError, match=r"Layer 1 maps 4225 values .* fewer pixels"):
        compile_network(make_network(pixels=65, hidden=8, classes=3))


def test_too_many_layers_are_refused_at_the_layer_that_breaks() -> None:
    deep_plan(layers=3).check()
    with pytest.raises(EncryptionError, match=r"Layer 4 needs 7 multiplications"):
        deep_plan(layers=5).check()


@pytest.mark.parametrize(
    ("stage", "value", "said"),
    [
        (0, 33.0, "Layer 1 gives inputs of its activation up to 33"),
        (1, float("inf"), "Layer 2 gives inputs of its activation up to inf"),
        (2, LARGEST_LOGIT + 1, "Layer 3 gives logits up to 101"),
        (2, float("nan"), "Layer 3 gives logits up to nan"),
        (0, 0.0, "needs them measured"),
    ],
)
def test_a_range_that_would_overflow_or_was_not_measured_is_refused(make_network, stage, value, said) -> None:
    network = make_network(pixels=4, hidden=8, classes=3)
    network.largest[stage] = value
    with pytest.raises(EncryptionError, match=said):
        compile_network(network)


def test_a_layer_of_zeros_is_refused(make_network) -> None:
    network = make_network(pixels=4, hidden=8, classes=3)
    torch.nn.init.zeros_(network.body[4].weight)
    with pytest.raises(EncryptionError, match="Layer 2 has only zero weights"):
        compile_network(network)
