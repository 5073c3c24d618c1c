import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from seeded_noise import SeededNoise
from torch.nn import functional

from primia.errors import PrivacyError
from primia.models.blocks import ResidualBlock
from primia.models.networks import build_network
from primia.privacy.noise import SystemNoise
from primia.training import private
from primia.training.private import (
    clip_and_sum,
    draw_patients,
    index_patients,
    private_gradient,
    rows_at_a_time,
    train_private,
)


def linear(features=6, classes=3):
    head = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(features, classes))
    with torch.no_grad():
        for weight in head.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    return head


def data(n=12, features=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, features, generator=generator), torch.randint(0, 3, (n,), generator=generator)


def norm(gradient):
    return math.sqrt(sum(value.double().square().sum().item() for value in gradient.values()))


def release(head, inputs, labels, drawn, **changes):
    arguments = {"clip_norm": 1.0, "noise_multiplier": 0.0, "expected_batch": 1.0, "noise": SeededNoise(0)} | changes
    return private_gradient(head, inputs=inputs, labels=labels, patients_drawn=torch.as_tensor(drawn), **arguments)


def plain_gradient(head, inputs, labels, image):
    head.zero_grad()
    functional.cross_entropy(head(inputs[image : image + 1]), labels[image : image + 1]).backward()
    gradient = {name: weight.grad.clone() for name, weight in head.named_parameters()}
    head.zero_grad()
    return gradient


@pytest.mark.parametrize("architecture", ["linear", "convnet", "residual"])
def test_without_noise_it_is_the_sum_of_single_gradients_each_clipped_to_the_norm(architecture):
    if architecture == "linear":
        head, (inputs, labels) = linear(), data(5)
    else:
        head = build_network("convnet", classes=3, pixels=32, seed=0).head
        if architecture == "residual":
            torch.manual_seed(0)
            block = ResidualBlock(32, 64, stride=2)
            head = torch.nn.Sequential(
                torch.nn.Conv2d(1, 32, 3, stride=4), block, torch.nn.Flatten(), torch.nn.Linear(64 * 16, 3)
            )
        inputs = torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        labels = torch.tensor([0, 1, 2, 0, 1])
    singles = [plain_gradient(head, inputs, labels, image) for image in (0, 2, 3)]
    clip = sorted(norm(single) for single in singles)[1]  # one is clipped, one is not, one is on the edge
    found = release(head, inputs, labels, (0, 2, 3), clip_norm=clip, expected_batch=4.0)
    for name in found:
        expected = sum(single[name] * min(1.0, clip / norm(single)) for single in singles) / 4.0
        assert torch.allclose(found[name], expected, atol=1e-5 * clip)


@given(scale=st.floats(1e-3, 1e3), clip=st.floats(1e-3, 10.0), image=st.integers(0, 11))
@settings(max_examples=30, deadline=None)
def test_no_patient_moves_the_sum_by_more_than_the_clip_norm(scale, clip, image):
    inputs, labels = data()
    inputs, head = inputs * scale, linear()
    others = [i for i in range(12) if i != image]
    with_patient = release(head, inputs, labels, [*others, image], clip_norm=clip)
    without = release(head, inputs, labels, others, clip_norm=clip)
    difference = norm({name: with_patient[name] - without[name] for name in without})
    assert difference <= clip * (1 + 1e-4)
    assert norm(release(head, inputs, labels, [image], clip_norm=clip)) <= clip


def test_clipping_is_over_all_weights_together_and_leaves_small_gradients_alone():
    samples = {"a": torch.tensor([[3.0, 0.0], [0.3, 0.0]]), "b": torch.tensor([[4.0], [0.4]])}
    found = clip_and_sum(samples, clip_norm=1.0)
    assert torch.allclose(found["a"], torch.tensor([0.9, 0.0]), atol=1e-5)
    assert torch.allclose(found["b"], torch.tensor([1.2]), atol=1e-5)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_without_a_norm_counts_as_zero(value):
    samples = {"a": torch.tensor([[value, 0.0], [0.3, 0.1]])}
    assert torch.equal(clip_and_sum(samples, clip_norm=1.0)["a"], torch.tensor([0.3, 0.1]))
    inputs, labels = data(3)
    inputs[1, 2] = value
    head = linear()
    broken, whole = release(head, inputs, labels, (0, 1, 2)), release(head, inputs, labels, (0, 2))
    assert all(torch.equal(broken[name], whole[name]) for name in whole)


@pytest.mark.parametrize(("sigma", "clip", "batch"), [(1.3, 1.0, 50.0), (0.7, 0.25, 8.0)])
def test_an_empty_draw_is_noise_of_exactly_the_accounted_width(sigma, clip, batch):
    head = linear(features=4000)
    inputs, labels = data(3, features=4000)
    gradient = release(
        head, inputs, labels, (), clip_norm=clip, noise_multiplier=sigma, expected_batch=batch, noise=SeededNoise(5)
    )
    values = torch.cat([value.flatten() for value in gradient.values()]).numpy() / (sigma * clip / batch)
    n = len(values)
    low, high = stats.chi2.interval(0.999, n - 1)
    assert low < values.var(ddof=1) * (n - 1) < high
    assert stats.kstest(values, "norm").pvalue > 1e-3


def test_noise_is_added_once_on_top_of_the_clipped_sum_whatever_was_drawn():
    head, (inputs, labels) = linear(), data()
    for drawn in ((), (4,), tuple(range(12))):
        quiet = release(head, inputs, labels, drawn, expected_batch=6.0)
        noisy = release(
            head, inputs, labels, drawn, expected_batch=6.0, noise_multiplier=2.0, clip_norm=1.0, noise=SeededNoise(8)
        )
        same = SeededNoise(8)
        for name, weight in head.named_parameters():
            assert torch.allclose(noisy[name] - quiet[name], same.normal(weight.shape) * 2.0 / 6.0, atol=1e-5)


def test_the_sum_is_divided_by_the_expected_batch_and_not_by_how_many_came():
    head, (inputs, labels) = linear(), data()
    one = release(head, inputs, labels, (4,), expected_batch=6.0)
    undivided = release(head, inputs, labels, (4,), expected_batch=1.0)
    assert norm(one) == pytest.approx(norm(undivided) / 6.0)
    twice = release(head, inputs, labels, (4, 4), expected_batch=6.0)
    assert norm(twice) == pytest.approx(2 * norm(one), rel=1e-5)


def test_a_draw_too_large_for_memory_is_taken_in_parts(monkeypatch):
    head, (inputs, labels) = linear(), data()
    whole = release(head, inputs, labels, range(12))
    monkeypatch.setattr(private, "_MOST_ROWS", 5)
    taken, whole_sum = [], private.clipped_sum
    monkeypatch.setattr(
        private, "clipped_sum", lambda *args, rows, **kw: taken.append(len(rows)) or whole_sum(*args, rows=rows, **kw)
    )
    parts = release(head, inputs, labels, range(12))
    assert taken == [5, 5, 2]
    assert all(torch.allclose(whole[name], parts[name], atol=1e-6) for name in whole)


def test_a_large_network_takes_fewer_images_at_a_time_than_a_small_one():
    heads = {name: build_network(name, classes=3, pixels=64, seed=1).head for name in ("scattering", "resnet18")}
    assert {name: rows_at_a_time(head) for name, head in heads.items()} == {"scattering": 64, "resnet18": 24}


@pytest.mark.parametrize("sigma", [0.3, 1.0, 7.0])
def test_what_is_released_lies_on_a_grid_that_depends_on_the_noise_alone(sigma):
    head, (inputs, labels) = linear(), data()
    step = 2.0 ** (math.floor(math.log2(sigma)) - 20)
    for drawn in ((), (0, 3, 5)):
        found = release(head, inputs, labels, drawn, noise_multiplier=sigma, expected_batch=1.0, noise=SystemNoise())
        steps = torch.cat([value.flatten().double() / step for value in found.values()])
        assert torch.equal(steps, steps.round())
        # Both even and odd multiples: the noise does not live on a coarser grid than the one it is rounded to.
        assert 0.05 < (steps % 2).mean() < 0.95


def test_the_head_is_left_as_it_was():
    head, (inputs, labels) = linear(), data()
    head.eval()
    before = {name: weight.clone() for name, weight in head.state_dict().items()}
    release(head, inputs, labels, (0, 1), noise_multiplier=1.0)
    assert all(torch.equal(weight, before[name]) for name, weight in head.state_dict().items())
    assert not head.training
    for module in head.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks
        assert "forward" not in vars(module)
    for weight in head.parameters():
        assert weight.grad is None


def test_a_head_that_mixes_samples_is_refused():
    head = torch.nn.Sequential(torch.nn.BatchNorm1d(6), torch.nn.Linear(6, 3))
    with pytest.raises(PrivacyError, match=r"layer 0 \(BatchNorm1d\) mixes the samples .* put nn.GroupNorm"):
        release(head, *data(), (0, 1))


def shaken(rows):
    """Something else for every row, and the same when it is done again."""
    return rows + torch.linspace(-1, 1, len(rows))[:, None]


def test_the_views_of_a_drawn_patient_are_averaged_before_they_are_clipped():
    head, (inputs, labels) = linear(), data()
    views = shaken(inputs[[2, 2, 2, 7, 7, 7]])
    losses = [functional.cross_entropy(head(views[i : i + 3]), labels[[image] * 3]) for i, image in ((0, 2), (3, 7))]
    names, weights = zip(*head.named_parameters(), strict=True)
    singles = [dict(zip(names, torch.autograd.grad(loss, weights), strict=True)) for loss in losses]
    clip = sum(norm(single) for single in singles) / 2  # one is clipped, one is not
    found = release(head, inputs, labels, ((2, 2, 2), (7, 7, 7)), clip_norm=clip, augment=shaken)
    for name in found:
        expected = sum(single[name] * min(1.0, clip / norm(single)) for single in singles)
        assert torch.allclose(found[name], expected, atol=1e-5 * clip)


def test_one_view_may_be_augmented_too():
    head, (inputs, labels) = linear(), data()
    found = release(head, inputs, labels, (2, 7), augment=shaken)
    expected = release(head, shaken(inputs[[2, 7]]), labels[[2, 7]], (0, 1))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_training_passes_views_and_precision_on():
    (inputs, labels), patients = data(), torch.arange(12)
    head, start = linear(), linear()
    options = {"augment": shaken, "precision": "bfloat16"}
    train(
        head, inputs, labels, patients, sampling_rate=1.0, noise_multiplier=0.0, learning_rate=1.0, views=2, **options
    )
    gradient = release(start, inputs, labels, [[i, i] for i in range(12)], expected_batch=6.0, **options)
    for (name, weight), before in zip(head.named_parameters(), start.parameters(), strict=True):
        assert torch.allclose(weight, before - gradient[name], atol=1e-6)
    assert norm(gradient) != norm(release(start, inputs, labels, range(12), expected_batch=6.0))


@pytest.mark.parametrize("q", [0.05, 0.25, 0.9])
def test_every_patient_is_drawn_with_the_sampling_rate_on_its_own(q):
    patients = torch.tensor([5, 5, 5, 9, 2, 2, 7, 11, 11, 4])
    index, noise, draws = index_patients(patients), SeededNoise(3), 4000
    times = dict.fromkeys(set(patients.tolist()), 0)
    sizes = []
    for _ in range(draws):
        drawn = patients[draw_patients(index, sampling_rate=q, noise=noise).flatten()].tolist()
        assert len(drawn) == len(set(drawn)), "a patient enters a step once"
        sizes.append(len(drawn))
        for patient in drawn:
            times[patient] += 1
    for count in times.values():
        assert stats.binomtest(count, draws, q).pvalue > 1e-4
    # Independent draws make the size of a sample binomial; a shuffled loader would give it no variance.
    variance = torch.tensor(sizes, dtype=torch.float64).var().item()
    assert variance == pytest.approx(6 * q * (1 - q), rel=0.15)


def test_each_image_of_a_drawn_patient_is_equally_likely():
    patients = torch.tensor([1, 0, 1, 1, 0])
    index, noise = index_patients(patients), SeededNoise(4)
    drawn = torch.cat([draw_patients(index, sampling_rate=1.0, views=2, noise=noise) for _ in range(3000)])
    assert (patients[drawn[:, 0]] == patients[drawn[:, 1]]).all(), "the views of a row are of one patient"
    assert 0.2 < (drawn[:, 0] == drawn[:, 1]).double().mean() < 0.6, "they are drawn on their own"
    counts = torch.bincount(drawn.flatten(), minlength=5).tolist()
    assert sum(counts[i] for i in (1, 4)) == sum(counts[i] for i in (0, 2, 3)) == 6000
    assert stats.chisquare([counts[i] for i in (0, 2, 3)]).pvalue > 1e-4
    assert stats.chisquare([counts[i] for i in (1, 4)]).pvalue > 1e-4


class Counting(SeededNoise):
    """Remembers how often noise of which size was asked for."""

    def __init__(self, seed):
        super().__init__(seed)
        self.drawn = []

    def normal(self, shape):
        self.drawn.append(tuple(shape))
        return super().normal(shape)


def train(head, inputs, labels, patients, **changes):
    arguments = {
        "clip_norm": 1.0,
        "noise_multiplier": 1.0,
        "sampling_rate": 0.5,
        "expected_batch": 6.0,
        "steps": 1,
        "learning_rate": 0.3,
        "noise": SeededNoise(1),
    }
    train_private(head, inputs=inputs, labels=labels, patients=patients, **(arguments | changes))


def test_training_samples_patients_as_accounted():
    """Seen from outside: one-hot inputs and zero weights tell from a step's update which patients were in it."""
    patients, q, steps = torch.arange(40), 0.3, 150
    inputs, labels, noise = torch.eye(40), torch.zeros(40, dtype=torch.int64), SeededNoise(6)
    taken = torch.zeros(40)
    for _ in range(steps):
        head = torch.nn.Linear(40, 3, bias=False)
        torch.nn.init.zeros_(head.weight)
        train(head, inputs, labels, patients, sampling_rate=q, noise_multiplier=0.0, noise=noise)
        taken += (head.weight[0] != 0).float()
    assert stats.binomtest(int(taken.sum()), 40 * steps, q).pvalue > 1e-3
    assert min(stats.binomtest(int(t), steps, q).pvalue for t in taken) > 1e-5


def test_a_step_moves_against_the_private_gradient():
    (inputs, labels), patients = data(), torch.arange(12)
    head, start = linear(), linear()
    train(head, inputs, labels, patients, sampling_rate=1.0, noise=SeededNoise(2))
    replay = SeededNoise(2)
    drawn = draw_patients(index_patients(patients), sampling_rate=1.0, noise=replay)
    gradient = release(start, inputs, labels, drawn, noise_multiplier=1.0, expected_batch=6.0, noise=replay)
    for (name, weight), before in zip(head.named_parameters(), start.parameters(), strict=True):
        assert torch.allclose(weight, before - 0.3 * gradient[name], atol=1e-6)


def test_the_proximal_term_comes_after_the_noise_and_draws_none():
    (inputs, labels), patients = data(), torch.arange(12)
    steps = {"sampling_rate": 1.0, "steps": 2, "learning_rate": 0.3}
    head, start, free = linear(), linear(), linear()
    train(head, inputs, labels, patients, noise=SeededNoise(2), proximal=0.5, **steps)
    train(free, inputs, labels, patients, noise=SeededNoise(2), proximal=0.0, **steps)
    replay, index = SeededNoise(2), index_patients(patients)
    expected = linear()
    for _ in range(2):
        drawn = draw_patients(index, sampling_rate=1.0, noise=replay)
        gradient = release(expected, inputs, labels, drawn, noise_multiplier=1.0, expected_batch=6.0, noise=replay)
        with torch.no_grad():
            for (name, weight), origin in zip(expected.named_parameters(), start.parameters(), strict=True):
                weight -= 0.3 * (gradient[name] + 0.5 * (weight - origin))
    for weight, right in zip(head.parameters(), expected.parameters(), strict=True):
        assert torch.allclose(weight, right, atol=1e-6)
    assert not torch.equal(head[1].weight, free[1].weight)


def test_every_step_draws_noise_for_every_weight_even_if_no_patient_came():
    (inputs, labels), patients = data(), torch.arange(12)
    noise, head = Counting(0), linear()
    train(head, inputs, labels, patients, sampling_rate=1e-9, steps=3, noise=noise)
    assert noise.drawn == [(3, 6), (3,)] * 3
    assert not torch.equal(head[1].weight, linear()[1].weight)


def test_private_training_learns_with_little_noise():
    inputs, _ = data(300, seed=1)
    labels = inputs[:, :3].argmax(dim=1)
    head = linear()
    train(head, inputs, labels, torch.arange(300), sampling_rate=0.5, expected_batch=150.0, steps=40, learning_rate=5.0)
    assert (head(inputs).argmax(1) == labels).float().mean() > 0.85
