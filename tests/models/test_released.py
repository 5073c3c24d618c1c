import dataclasses
import json
import math

import pytest
import torch

from primia.config import Volume
from primia.errors import DataError
from primia.models.networks import build_network
from primia.models.released import ReleasedModel, load_model, save_model

CLASSES = ("normal", "bacterial", "viral")


@pytest.fixture
def model():
    network = build_network("convnet", classes=3, pixels=32, seed=7)
    return ReleasedModel(
        network=network, architecture="convnet", classes=CLASSES, pixels=32, mean=0.48, std=0.2, round=9
    )


@pytest.fixture
def images():
    return torch.rand(70, 1, 32, 32, generator=torch.Generator().manual_seed(2)).half()


def test_a_saved_model_comes_back_as_it_was(tmp_path, model, images):
    save_model(tmp_path / "federated", model)
    back = load_model(tmp_path / "federated", classes=list(CLASSES))
    assert torch.equal(back.logits(images), model.logits(images))
    assert back.digest() == model.digest()
    for field in ("architecture", "classes", "pixels", "mean", "std", "round"):
        assert getattr(back, field) == getattr(model, field)
    assert sorted(path.name for path in (tmp_path / "federated").iterdir()) == ["model.json", "weights.safetensors"]


def test_logits_are_those_of_the_standardised_images_whatever_the_batch(model, images):
    model.network.eval()
    expected = model.network((images.float() - 0.48) / 0.2)
    assert torch.allclose(model.logits(images), expected, atol=1e-5)
    assert torch.allclose(model.probabilities(images).sum(dim=1), torch.ones(70))
    assert not model.logits(images).requires_grad


def test_another_class_order_is_refused(tmp_path, model):
    save_model(tmp_path, model)
    with pytest.raises(DataError, match=r"trained for the classes normal, bacterial, viral in this order"):
        load_model(tmp_path, classes=("normal", "viral", "bacterial"))


def test_the_digest_changes_with_any_weight_and_not_with_memory_layout(model):
    before = model.digest()
    model.network.head.to(memory_format=torch.channels_last)
    assert model.digest() == before
    with torch.no_grad():
        model.network.head[-1].bias[2] += 1e-6
    assert model.digest() != before


def test_the_digest_covers_all_that_decides_an_answer_and_nothing_else(model):
    changes = {
        "architecture": "resnet9",
        "classes": ("normal", "viral", "bacterial"),
        "pixels": 33,
        "mean": 0.1,
        "std": math.nextafter(0.2, 1.0),
        "weight_standardisation": True,
        "volume": Volume(spacing=(1.0, 1.0, 2.5)),
        "network": build_network("convnet", classes=3, pixels=32, seed=8),
    }
    assert {field.name for field in dataclasses.fields(model)} == {*changes, "round"}
    digests = {dataclasses.replace(model, **{name: value}).digest() for name, value in changes.items()}
    assert len(digests | {model.digest()}) == len(changes) + 1
    assert dataclasses.replace(model, round=3).digest() == model.digest()


def test_another_mean_than_was_saved_is_refused(tmp_path, model):
    save_model(tmp_path, model)
    edit_card(tmp_path, mean=0.1)
    with pytest.raises(DataError, match="does not match the digest"):
        load_model(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path, model):
    save_model(tmp_path / "a", model)
    other = build_network("convnet", classes=3, pixels=32, seed=8)
    save_model(tmp_path / "b", dataclasses.replace(model, network=other))
    (tmp_path / "b" / "weights.safetensors").replace(tmp_path / "a" / "weights.safetensors")
    with pytest.raises(DataError, match="does not match the digest"):
        load_model(tmp_path / "a")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda folder: (folder / "model.json").unlink(), "model.json is missing"),
        (lambda folder: (folder / "model.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"half"), "is damaged"),
        (lambda folder: edit_card(folder, architecture="vgg"), "describes no model of this version"),
        (lambda folder: edit_card(folder, std=0.0), "describes no model of this version"),
        (lambda folder: edit_card(folder, architecture="resnet18"), "holds no resnet18 weights"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path, model, harm, sentence):
    save_model(tmp_path, model)
    harm(tmp_path)
    with pytest.raises(DataError, match=sentence):
        load_model(tmp_path)


def edit_card(folder, **fields):
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(card | fields))
