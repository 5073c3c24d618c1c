import pytest
import torch

from primia.models.networks import build_network
from primia.training.augment import augment_images
from primia.training.plain import train_plain

SETTINGS = {"batch_size": 8, "learning_rate": 0.1, "weight_decay": 1e-4, "augment": True, "precision": "float32"}


def stripes(n, seed=0):
    """Images whose class is the direction of their stripes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator)
    wave = torch.sin(torch.arange(32) * 1.2)
    upright = wave.expand(32, 32)
    images = torch.stack([upright if label else upright.T for label in labels])[:, None]
    return images + 0.5 * torch.randn(n, 1, 32, 32, generator=generator), labels


def trained(**changes):
    head = build_network("convnet", classes=2, pixels=32, seed=3).head
    images, labels = stripes(40)
    loss = train_plain(head, inputs=images, labels=labels, **{"epochs": 1, "seed": 1, **SETTINGS, **changes})
    return head, loss


def flat(head):
    return torch.cat([weight.flatten() for weight in head.state_dict().values()])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_network_learns_what_it_is_shown(precision):
    head, loss = trained(epochs=4, precision=precision)
    later, _ = trained(epochs=1, precision=precision)
    assert all(weight.dtype == torch.float32 and weight.is_contiguous() for weight in head.parameters())
    images, labels = stripes(60, seed=9)
    with torch.no_grad():
        assert (head(images).argmax(1) == labels).float().mean() > 0.9
    assert 0 < loss < trained(epochs=1, precision=precision)[1], "the mean falls as passes are added"
    assert not torch.equal(flat(head), flat(later))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equal_seeds_give_equal_weights_bit_for_bit(precision):
    first, loss = trained(precision=precision)
    torch.manual_seed(99)
    second, same_loss = trained(precision=precision)
    other, _ = trained(precision=precision, seed=2)
    assert torch.equal(flat(first), flat(second))
    assert loss == same_loss
    assert not torch.equal(flat(first), flat(other))


def test_features_of_a_front_are_not_augmented():
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(5 * 4, 2))
    start = {name: weight.clone() for name, weight in head.state_dict().items()}
    inputs, labels = torch.randn(12, 5, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2
    outcomes = []
    for augment in (True, False):
        head.load_state_dict(start)
        train_plain(head, inputs=inputs, labels=labels, epochs=2, seed=0, **{**SETTINGS, "augment": augment})
        outcomes.append(flat(head))
    assert torch.equal(*outcomes)


def test_the_loss_is_the_mean_over_images_even_if_the_last_batch_is_small():
    head = torch.nn.Linear(1, 2)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    settings = SETTINGS | {"learning_rate": 1e-12, "augment": False}
    inputs, labels = torch.randn(9, 1), torch.arange(9) % 2
    loss = train_plain(head, inputs=inputs, labels=labels, epochs=3, seed=0, **settings)
    assert loss == pytest.approx(0.693147, abs=1e-5)


def test_augmentation_moves_an_image_a_little_and_each_its_own_way():
    images = torch.zeros(200, 1, 64, 64)
    images[:, :, 30:34, 30:34] = 1.0
    moved = augment_images(images, generator=torch.Generator().manual_seed(4))
    again = augment_images(images, generator=torch.Generator().manual_seed(4))
    assert torch.equal(moved, again)
    weight = (moved - moved.amin(dim=(2, 3), keepdim=True)).squeeze(1)
    total = weight.sum(dim=(1, 2))
    axis = torch.arange(64.0)
    centres = torch.stack([(weight.sum(dim=2) @ axis) / total, (weight.sum(dim=1) @ axis) / total])
    offset = centres - 31.5
    assert offset.abs().max() < 0.05 * 64 * 1.1 + 0.5, "no shift beyond 5 % of the side"
    assert offset.std() > 1.0
    assert offset.mean().abs() < 0.5
    assert moved.flatten(1).std(dim=0).max() > 0.1


def test_images_are_never_mirrored():
    images = torch.zeros(300, 1, 32, 32)
    images[:, :, :, :10] = 1.0
    moved = augment_images(images, generator=torch.Generator().manual_seed(0))
    assert (moved[..., :6].mean(dim=(1, 2, 3)) > moved[..., -6:].mean(dim=(1, 2, 3)) + 0.5).all()
