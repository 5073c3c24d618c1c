"""Which network is made for a released model; the hospitals' own part is tested in tests/federation."""

from pathlib import Path

import pytest
import torch
from torch import nn

from primia.config import Encryption, load_params
from primia.encrypted.networks import encrypted_network
from primia.models.networks import build_network
from primia.models.released import ReleasedModel

CLASSES = ("normal", "bacterial", "viral")
NOWHERE = Path("/nonexistent")  # what a network of phantoms must not open


def released(architecture: str) -> ReleasedModel:
    network = build_network(architecture, classes=3, pixels=32, seed=1).eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        list(network.head.children())[-1].weight.normal_(std=0.02)
    return ReleasedModel(network, architecture, CLASSES, 32, 0.5, 0.25, 1)


@pytest.fixture
def params(request):
    shipped = load_params(request.path.parents[2] / "params.yaml")
    return shipped.model_copy(update={"encryption": Encryption(pixels=16, phantom_patients=40, epochs=3)})


def test_the_scattering_model_answers_itself_and_its_range_on_phantoms_is_known(params) -> None:
    model, told = released("scattering"), []
    network = encrypted_network(
        params, model, sites=NOWHERE, state=NOWHERE, on_progress=lambda done, total: told.append((done, total))
    )
    assert network.front == "scattering"
    assert torch.equal(network.body[1].weight, model.network.head[1].weight)
    assert float(network.largest) > 0.0
    assert told[-1] == (40, 40)


def test_another_model_gets_a_student_that_saw_phantoms_and_no_hospital(params) -> None:
    model, told = released("convnet"), []
    network = encrypted_network(
        params, model, sites=NOWHERE, state=NOWHERE, on_progress=lambda done, total: told.append((done, total))
    )
    assert (network.front, network.pixels) == ("shrink", 16)
    assert [type(layer) for layer in network.body].count(nn.Linear) == 3
    assert bool((network.largest > 0).all())
    assert told[-3:] == [(1, 3), (2, 3), (3, 3)]
