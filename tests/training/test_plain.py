import pytest
import torch
from torch.nn import functional

from primia.models.networks import build_network
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
    # At the rate of the other tests it depends on a processor's rounding whether four passes converge.
    calmly = {"learning_rate": 0.02, "precision": precision}
    head, loss = trained(epochs=4, **calmly)
    later, early_loss = trained(epochs=1, **calmly)
    assert all(weight.dtype == torch.float32 and weight.is_contiguous() for weight in head.parameters())
    images, labels = stripes(60, seed=9)
    with torch.no_grad():
        assert (head(images).argmax(1) == labels).float().mean() > 0.9
    assert 0 < loss < early_loss, "the mean falls as passes are added"
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


def step_by_step(*, epochs, seed):
    """Training written with torch's own optimiser, on the order that `train_plain` draws."""
    head = build_network("convnet", classes=2, pixels=32, seed=3).head
    images, labels = stripes(40)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(40, generator=generator), 8):
            optimizer.zero_grad()
            functional.cross_entropy(head(images[chosen]), labels[chosen]).backward()
            optimizer.step()
    return flat(head)


def test_it_is_the_sgd_of_torch_bit_for_bit():
    head, _ = trained(epochs=2, augment=False, seed=5)
    assert torch.equal(flat(head), step_by_step(epochs=2, seed=5))


def test_local_steps_are_batches_over_as_many_passes_as_they_need():
    head, _ = trained(epochs=1, steps=10, augment=False, seed=5)  # five batches make a pass
    assert torch.equal(flat(head), step_by_step(epochs=2, seed=5))
    fewer, _ = trained(epochs=1, steps=9, augment=False, seed=5)
    assert not torch.equal(flat(fewer), flat(head))


def test_a_proximal_term_of_zero_changes_no_bit_and_a_strong_one_holds_the_weights():
    start = flat(build_network("convnet", classes=2, pixels=32, seed=3).head)
    free, _ = trained(epochs=3, augment=False)
    zero, _ = trained(epochs=3, augment=False, proximal=0.0)
    held, _ = trained(epochs=3, augment=False, proximal=5.0)
    assert torch.equal(flat(free), flat(zero))
    assert (flat(held) - start).norm() < 0.2 * (flat(free) - start).norm()


def test_the_proximal_term_is_half_mu_times_the_squared_distance():
    head = torch.nn.Linear(1, 2, bias=False)
    torch.nn.init.zeros_(head.weight)
    inputs, labels = torch.ones(1, 1), torch.tensor([0])
    arguments = {"epochs": 2, "seed": 0, **SETTINGS, "augment": False, "weight_decay": 0.0, "proximal": 3.0}
    train_plain(head, inputs=inputs, labels=labels, **arguments)
    weights, momentum = torch.zeros(2, 1), torch.zeros(2, 1)
    for _ in range(2):
        current = weights.clone().requires_grad_()
        loss = functional.cross_entropy((current @ inputs.T).T, labels) + 3.0 / 2 * current.square().sum()
        loss.backward()
        momentum = 0.9 * momentum + current.grad
        weights = weights - 0.1 * momentum
    assert torch.allclose(head.weight, weights, atol=1e-6)


def test_class_weights_are_those_of_the_loss_of_torch():
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 3)
    inputs, labels, weights = torch.randn(10, 4), torch.arange(10) % 3, (0.2, 1.0, 2.5)
    with torch.no_grad():
        expected = functional.cross_entropy(head(inputs), labels, weight=torch.tensor(weights)).item()
    arguments = {"epochs": 1, "seed": 0, **SETTINGS, "augment": False, "batch_size": 10, "learning_rate": 1e-12}
    assert train_plain(head, inputs=inputs, labels=labels, class_weights=weights, **arguments) == pytest.approx(
        expected, abs=1e-6
    )


def test_mixup_repeats_itself_with_its_seed_and_is_a_training_of_its_own():
    images, labels = stripes(60, seed=9)
    head, loss = trained(epochs=6, mixup=0.4)
    again, same_loss = trained(epochs=6, mixup=0.4)
    without, _ = trained(epochs=6)
    assert torch.equal(flat(head), flat(again))
    assert loss == same_loss
    assert not torch.equal(flat(head), flat(without))
    with torch.no_grad():
        assert (head(images).argmax(1) == labels).float().mean() > 0.9


def discs(n, seed=0, sides=(16, 16)):
    """Images in which a bright disc of another place is to be found, and masks of bytes."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.meshgrid(*(torch.arange(float(side)) for side in sides), indexing="ij")
    centres = torch.rand(n, len(sides), generator=generator) * torch.tensor(sides) / 2 + torch.tensor(sides) / 4
    distances = sum((axis - centres[:, i].view(-1, *[1] * len(sides))).square() for i, axis in enumerate(axes))
    masks = (distances < 16).to(torch.uint8)
    images = masks[:, None] + 0.5 * torch.randn(n, 1, *sides, generator=generator)
    return images.half(), masks


@pytest.mark.parametrize("loss", ["cross_entropy", "dice", "dice_cross_entropy"])
@pytest.mark.parametrize("architecture", ["unet", "monet"])
def test_a_network_learns_to_segment_with_every_loss(architecture, loss):
    head = build_network(architecture, classes=2, pixels=16, seed=3).head
    images, masks = discs(40)
    settings = SETTINGS | {"learning_rate": 0.05}
    train_plain(head, inputs=images, labels=masks, epochs=8, seed=1, loss=loss, **settings)
    images, masks = discs(30, seed=9)
    with torch.no_grad():
        found = head(images.float()).argmax(1)
    overlap = 2 * ((found == 1) & (masks == 1)).sum() / ((found == 1).sum() + (masks == 1).sum())
    assert overlap > 0.85


def test_volumes_are_trained_on_with_equal_bits_for_equal_seeds():
    images, masks = discs(6, sides=(16, 16, 8))
    trained_heads = []
    for seed in (1, 1, 2):
        head = build_network("unet", classes=2, pixels=16, depth=8, seed=3).head
        train_plain(
            head, inputs=images, labels=masks, epochs=1, seed=seed, loss="dice", **(SETTINGS | {"batch_size": 2})
        )
        trained_heads.append(flat(head))
    assert torch.equal(trained_heads[0], trained_heads[1])
    assert not torch.equal(trained_heads[0], trained_heads[2])


@pytest.mark.parametrize("only_for_diagnoses", [{"mixup": 0.4}, {"class_weights": (1.0, 2.0)}])
def test_masks_are_neither_blended_nor_weighted(only_for_diagnoses):
    head = build_network("monet", classes=2, pixels=16, seed=3).head
    images, masks = discs(2)
    with pytest.raises(AssertionError):
        train_plain(head, inputs=images, labels=masks, epochs=1, seed=1, **SETTINGS, **only_for_diagnoses)
