import torch
from torch import Tensor

from primia.models.students import build_student, fold_normalisation
from primia.training.distilled import distillation_loss, train_student


def lesson(rows: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs of 8 x 8 pixels, and the logits of a teacher that no linear map can imitate."""
    inputs = torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed))
    left, right = inputs[:, :4].mean(dim=1), inputs[:, 4:8].mean(dim=1)
    return inputs, torch.stack([4 * left.abs(), 4 * right.abs(), left - right], dim=1)


def taught(**changes: int):
    network = fold_normalisation(build_student(pixels=8, classes=3, seed=1))
    inputs, targets = lesson(1500, seed=2)
    settings = {"epochs": 25, "batch_size": 32, "seed": 3} | changes
    loss = train_student(network, inputs=inputs, targets=targets, spread=1.5, learning_rate=0.05, **settings)
    return network, loss


def test_a_folded_student_learns_from_its_teacher() -> None:
    network, _ = taught()
    inputs, targets = lesson(500, seed=4)
    untaught = fold_normalisation(build_student(pixels=8, classes=3, seed=1))
    with torch.no_grad():
        after, before = (distillation_loss(each, inputs, targets, spread=1.5) for each in (network, untaught))
    assert float(after) < 0.5 * float(before)
    assert not network.training


def test_equal_seeds_give_equal_bits_and_another_order_does_not() -> None:
    first, second, other = taught(epochs=1), taught(epochs=1), taught(epochs=1, seed=9)
    assert first[1] == second[1]
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), second[0].parameters(), strict=True))
    assert not torch.equal(first[0].body[1].weight, other[0].body[1].weight)


def test_steps_take_the_place_of_epochs() -> None:
    (by_epochs, _), (by_steps, _) = taught(epochs=1), taught(epochs=9, steps=47)  # 1500 rows in batches of 32
    assert torch.equal(by_epochs.body[1].weight, by_steps.body[1].weight)


def test_a_perfect_student_has_no_loss_whatever_constant_the_teacher_adds() -> None:
    network = fold_normalisation(build_student(pixels=8, classes=3, seed=1))
    inputs, _ = lesson(20, seed=5)
    with torch.no_grad():
        logits = network(inputs)
        last = network.body[-1]
        last.bias.sub_(last.bias.mean())
        last.weight.sub_(last.weight.mean(dim=0))  # centred answers, as the loss asks for
        assert float(distillation_loss(network, inputs, logits + 7.0, spread=2.0)) < 1e-5


def test_inputs_of_a_quadratic_beyond_the_comfortable_are_penalised() -> None:
    network = fold_normalisation(build_student(pixels=8, classes=3, seed=1))
    with torch.no_grad():
        network.body[1].bias.fill_(10.0)
        last = network.body[-1]
        last.weight.zero_()
        last.bias.zero_()
        inputs, _ = lesson(20, seed=5)
        assert float(distillation_loss(network, inputs, torch.zeros(20, 3), spread=1.0)) > 0.3


def test_one_outlier_cannot_throw_the_weights_far() -> None:
    network = fold_normalisation(build_student(pixels=8, classes=3, seed=1))
    before = [weight.detach().clone() for weight in network.parameters()]
    inputs, targets = lesson(1, seed=6)
    train_student(
        network, inputs=1e3 * inputs, targets=targets, spread=1.0, epochs=1, batch_size=1, learning_rate=0.1, seed=0
    )
    moved = torch.stack([(a - b).norm() for a, b in zip(network.parameters(), before, strict=True)]).norm().detach()
    assert float(moved) < 0.1001
