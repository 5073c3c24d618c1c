import pytest
import torch

from primia.models.polynomial import dense_network, shrink


def test_shrinking_averages_the_pixels_of_an_area() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4).to(torch.float16)
    assert shrink(image, pixels=2).tolist() == [[2.5, 4.5, 10.5, 12.5]]


def test_shrinking_by_a_ratio_that_is_no_integer_keeps_a_constant_image_constant() -> None:
    assert torch.allclose(shrink(torch.full((2, 1, 64, 64), 0.3), pixels=28), torch.tensor(0.3))


def test_inputs_are_standardised_with_the_networks_mean_and_std() -> None:
    network = dense_network(2, 3, 2)
    network.mean.fill_(0.5)
    network.std.fill_(0.25)
    assert network.inputs(torch.ones(1, 1, 4, 4)).tolist() == [[2.0] * 4]


def test_the_activation_is_x_squared_plus_x_after_the_batch_norm() -> None:
    network = dense_network(2, 3, 2).eval()
    inputs = torch.randn(5, 4)
    value = inputs
    _, first, norm, _, second, other_norm, _, last = network.body
    for linear, normalise in ((first, norm), (second, other_norm)):
        value = normalise(linear(value))
        value = value**2 + value
    assert torch.allclose(network(inputs), last(value), atol=1e-6)


def test_ranges_only_grow_and_are_those_of_evaluation() -> None:
    network = dense_network(2, 3, 2)
    inputs = torch.randn(50, 4)
    network.record_ranges(inputs)
    with torch.no_grad():
        expected = [float(stage.abs().max()) for stage in network.eval().stages(inputs)]
    assert network.largest.tolist() == pytest.approx(expected)
    network.record_ranges(inputs[:1] * 0)
    assert network.largest.tolist() == pytest.approx(expected)
