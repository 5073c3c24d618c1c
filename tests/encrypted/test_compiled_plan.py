import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, eye_array
from torch import nn

from primia.encrypted.compiler import compile_network, packing_of
from primia.encrypted.layout import Layout
from primia.encrypted.parameters import MODULUS_BITS, parameters_for
from primia.encrypted.plan import LARGEST_LOGIT, Plan, Step, check_depth
from primia.errors import EncryptionError
from primia.models.polynomial import PolynomialNetwork, Quadratic


def deep_plan(*, layers: int, degree: int = 8192) -> Plan:
    layout = Layout.folded((4, 1, 1))
    return Plan(
        degree=degree,
        inputs=layout,
        steps=tuple(Step(label=f"{n} (Linear)", kind="folded", baby=2, layout=layout) for n in range(layers)),
        matrices=(csr_array(eye_array(4)),) * layers,
        offsets=(np.zeros(4),) * layers,
        largest=(1.0,) * layers,
    )


@pytest.fixture(scope="module")
def patches(build):
    """The network for 224 pixels; its compilation is what is tested."""
    return build(
        nn.Conv2d(1, 16, 8, 8), nn.BatchNorm2d(16), Quadratic(), nn.Flatten(),
        nn.Linear(12544, 64), nn.BatchNorm1d(64), Quadratic(), nn.Linear(64, 3),
        shape=(1, 224, 224), patch=8,
    )  # fmt: skip


def test_the_folded_plan_is_the_network(make_network) -> None:
    network = make_network(pixels=7, hidden=12, classes=4)
    inputs = torch.randn(20, 49)
    np.testing.assert_allclose(
        compile_network(network).logits(inputs.double().numpy()), network(inputs).detach().numpy(), atol=1e-4
    )


def test_a_patch_convolution_at_224_pixels_moves_whole_planes(patches) -> None:
    plan = compile_network(patches)
    first, second, last = plan.maps
    assert packing_of(patches, degree=8192).stride == 1024
    assert [layout.ciphertexts(4096) for layout in (plan.inputs, *(step.layout for step in plan.steps))] == [
        16,
        4,
        1,
        1,
    ]
    assert [step.kind for step in plan.steps] == ["spread", "folded", "folded"]
    assert (first.diagonals.count, first.rotations) == (256, 12)
    assert second.diagonals.count == 256
    assert last.diagonals.doublings[-1] == 2048
    inputs = torch.randn(3, 224 * 224)
    np.testing.assert_allclose(plan.logits(inputs.double().numpy()), patches(inputs).detach().numpy(), atol=1e-3)


def test_a_linear_model_takes_one_level_and_rotates_sums_only(build) -> None:
    network = build(nn.Flatten(), nn.Linear(9000, 3), shape=(10, 30, 30))
    plan = compile_network(network)
    assert plan.inputs.ciphertexts(4096) == 3
    assert plan.parameters.levels == 1
    assert len(plan.parameters.modulus_bits) == 3
    (packed,) = plan.maps
    assert (packed.diagonals.count, packed.steps.babies(packed.diagonals)) == (12, 0)


def test_only_as_many_values_leave_as_the_padded_classes(small, patches) -> None:
    for plan in (small.bundle.plan, compile_network(patches)):
        assert plan.steps[-1].layout.period == 4
        doublings = plan.maps[-1].diagonals.doublings
        assert doublings == tuple(4 << step for step in range(10))
        assert 2 * doublings[-1] == plan.slots


def test_the_parameters_have_128_bit_security_and_a_level_per_multiplication(small) -> None:
    parameters = small.bundle.plan.parameters
    assert sum(parameters.modulus_bits) <= MODULUS_BITS[parameters.degree]
    assert parameters.levels == 5


def test_a_shallower_plan_gets_a_larger_scale() -> None:
    assert deep_plan(layers=2).parameters.scale_bits > deep_plan(layers=3).parameters.scale_bits


@pytest.mark.parametrize(("degree", "levels"), [(8192, 5), (16384, 14)])
def test_parameters_of_every_depth_stay_within_the_standard(degree, levels) -> None:
    for depth in range(1, levels + 1):
        parameters = parameters_for(degree=degree, levels=depth, rotations=(1,))
        assert parameters is not None
        assert sum(parameters.modulus_bits) <= MODULUS_BITS[degree]
        assert parameters.levels == depth
    assert parameters_for(degree=degree, levels=levels + 1, rotations=(1,)) is None


def test_keys_are_asked_for_exactly_what_is_used(small) -> None:
    steps = set()
    for packed in small.bundle.plan.maps:
        steps |= set(packed.steps.baby.tolist()) | set(packed.steps.giant.tolist()) | set(packed.diagonals.doublings)
    expected = {pow(3, step, 16384) for step in steps - {0}} | {16383}
    assert set(small.bundle.plan.parameters.galois_elements) == expected


def test_describe_tells_layers_and_parameters(small) -> None:
    table = small.bundle.plan.describe()
    assert "0 (Flatten) + 1 (Linear) + 2 (BatchNorm1d)" in table
    assert "64 -> 16" in table
    assert "16 -> 3" in table
    assert "5 levels at scale 2^28" in table


def test_too_many_hidden_units_are_refused_at_their_layer(build) -> None:
    network = build(nn.Flatten(), nn.Linear(16, 5000), Quadratic(), nn.Linear(5000, 3), shape=(1, 4, 4))
    with pytest.raises(EncryptionError, match=r"Layer 0 \(Flatten\) \+ 1 \(Linear\) maps 16 values to 5000"):
        compile_network(network)


def test_patches_that_do_not_divide_the_image_are_refused(build) -> None:
    network = build(nn.Conv2d(1, 2, 3, 3), nn.Flatten(), nn.Linear(8, 3), shape=(1, 8, 8), patch=3)
    with pytest.raises(EncryptionError, match="patches of 3 x 3, which do not divide its input of 8 x 8"):
        compile_network(network)


def test_an_input_of_too_many_ciphertexts_is_refused() -> None:
    network = PolynomialNetwork(nn.Sequential(nn.AvgPool2d(300)), shape=(1, 1200, 1200))
    with pytest.raises(EncryptionError, match="takes 352 ciphertexts"):
        packing_of(network, degree=8192)


def test_an_unknown_profile_is_refused(make_network) -> None:
    with pytest.raises(EncryptionError, match="no profile 'slow'; choose fast or deep"):
        compile_network(make_network(pixels=4, hidden=8, classes=3), profile="slow")


def test_too_many_layers_are_refused_at_the_layer_that_breaks() -> None:
    deep_plan(layers=3).check()
    with pytest.raises(EncryptionError, match=r"Layer 3 \(Linear\) needs 7 multiplications .* use the profile deep"):
        deep_plan(layers=5).check()
    deep_plan(layers=7, degree=16384).check()
    with pytest.raises(EncryptionError, match=r"Layer h needs 15 multiplications .* use a network with fewer"):
        check_depth(list("abcdefgh"), 16384)


@pytest.mark.parametrize(
    ("stage", "value", "said"),
    [
        (0, 33.0, r"\(BatchNorm1d\) gives inputs of its activation up to 33"),
        (1, float("inf"), r"Layer 4 \(Linear\) .* gives inputs of its activation up to inf"),
        (2, LARGEST_LOGIT + 1, r"Layer 7 \(Linear\) gives logits up to 101"),
        (2, float("nan"), "gives logits up to nan"),
        (0, 0.0, "needs them measured"),
    ],
)
def test_a_range_that_would_overflow_or_was_not_measured_is_refused(make_network, stage, value, said) -> None:
    network = make_network(pixels=4, hidden=8, classes=3)
    network.largest[stage] = value
    with pytest.raises(EncryptionError, match=said):
        compile_network(network)


@pytest.mark.parametrize(("value", "said"), [(0.0, "only zero weights"), (float("nan"), "weights that are not finite")])
def test_a_layer_without_usable_weights_is_refused(make_network, value, said) -> None:
    network = make_network(pixels=4, hidden=8, classes=3)
    torch.nn.init.constant_(network.body[4].weight, value)
    with pytest.raises(EncryptionError, match=rf"Layer 4 \(Linear\) \+ 5 \(BatchNorm1d\) has {said}"):
        compile_network(network)
