import pytest
import torch
from torch import nn

from primia.errors import ConfigError
from primia.models.networks import build_network
from primia.models.polynomial import Quadratic
from primia.models.released import ReleasedModel
from primia.models.students import build_student, encrypted_form, fold_normalisation


def lived_in(pixels: int) -> tuple:
    """A student whose batch-norms have statistics and weights of their own, and inputs for it."""
    network = build_student(pixels=pixels, classes=3, seed=1)
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(40, pixels**2, generator=generator)
    with torch.no_grad():
        for layer in network.body:
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5, generator=generator)
                layer.bias.normal_(generator=generator)
        network.train()
        for _ in range(20):
            network(inputs)
    network.mean.fill_(0.4)
    network.std.fill_(0.2)
    network.record_ranges(inputs)
    return network, inputs


@pytest.mark.parametrize("pixels", [28, 64, 112, 224])
def test_a_student_has_three_linear_maps_and_two_quadratics_and_room_for_its_ciphertexts(pixels: int) -> None:
    network = build_student(pixels=pixels, classes=3, seed=0).eval()
    kinds = [type(layer) for layer in network.body]
    assert kinds.count(Quadratic) == 2
    assert sum(kind in (nn.Linear, nn.Conv2d) for kind in kinds) == 3
    assert network(torch.zeros(2, pixels**2)).shape == (2, 3)
    assert network.patch == (1 if pixels <= 64 else 8)


@pytest.mark.parametrize("pixels", [7, 65, 116, 264])
def test_a_size_that_no_student_takes_is_refused_with_one_that_works(pixels: int) -> None:
    with pytest.raises(ConfigError, match=f"encryption.pixels is {pixels}, but .*; choose ") as refusal:
        build_student(pixels=pixels, classes=3, seed=0)
    offered = int(str(refusal.value).rsplit("choose ", 1)[1].rstrip("."))
    assert build_student(pixels=offered, classes=3, seed=0).pixels == offered


def test_equal_seeds_give_equal_students_and_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (build_student(pixels=28, classes=3, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.body[1].weight, other.body[1].weight)


@pytest.mark.parametrize("pixels", [16, 72])
def test_folding_leaves_the_answers_and_takes_every_batch_norm(pixels: int) -> None:
    network, inputs = lived_in(pixels)
    folded = fold_normalisation(network)
    assert torch.allclose(folded(inputs), network(inputs), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) for layer in folded.body)
    assert {name for name, _ in folded.body.named_parameters()} == set(folded.body.state_dict())
    assert (folded.mean, folded.std, folded.patch) == (network.mean, network.std, network.patch)
    assert torch.equal(folded.largest, network.largest)
    assert torch.allclose(fold_normalisation(folded)(inputs), folded(inputs))  # nothing left to fold


def test_folding_copies() -> None:
    network, inputs = lived_in(16)
    before = network(inputs)
    with torch.no_grad():
        for parameter in fold_normalisation(network).parameters():
            parameter.zero_()
    assert torch.equal(network(inputs), before)


def test_the_scattering_model_is_its_own_encrypted_form() -> None:
    network = build_network("scattering", classes=3, pixels=32, seed=0)
    with torch.no_grad():
        network.head[1].weight.normal_(std=0.01)
    model = ReleasedModel(network, "scattering", ("a", "b", "c"), 32, 0.4, 0.2, 3)
    images = torch.rand(3, 1, 32, 32).half()
    form = encrypted_form(model)
    assert form is not None
    with torch.no_grad():
        assert torch.allclose(form(form.inputs(images)), model.logits(images), atol=1e-5)


def test_a_network_with_relu_has_no_encrypted_form() -> None:
    network = build_network("convnet", classes=3, pixels=32, seed=0)
    assert encrypted_form(ReleasedModel(network, "convnet", ("a", "b", "c"), 32, 0.4, 0.2, 3)) is None
