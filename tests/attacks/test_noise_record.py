import pytest
import torch

from primia.attacks.noise_record import NoiseRecord


def recorded(flaw=lambda values, release: values, *, seed=1, weights=3000, biases=3, releases=6):
    """Checks by name after some releases of a tensor of weights and one of biases."""
    generator = torch.Generator().manual_seed(seed)
    record = NoiseRecord(releases=releases)
    for release in range(releases):
        fresh = torch.randn(weights + biases, generator=generator, dtype=torch.float64)
        values = flaw(fresh, release)
        record.add({"weight": values[:weights].view(-1, 3), "bias": values[weights:]})
    return {check.name: check for check in record.checks()}


def broken(checks):
    return {name for name, check in checks.items() if not check.holds}


def test_independent_noise_of_the_declared_size_raises_no_alarm():
    assert [seed for seed in range(100) if broken(recorded(seed=seed))] == []


def test_of_one_release_everything_but_repetition_is_told():
    assert set(recorded(releases=1)) == {
        "noise",
        "noise_of_tensors",
        "noise_of_weights",
        "noise_shape",
        "noise_within",
        "noise_between_tensors",
    }


def test_a_tensor_without_noise_is_found_though_the_whole_seems_right():
    def bare(values, release):
        values[3000:] = 0
        return values

    checks = recorded(bare)
    assert checks["noise"].holds
    assert broken(checks) == {"noise_of_tensors", "noise_of_weights"}
    assert checks["noise_of_tensors"].value == 0.0


def test_one_weight_without_noise_is_found():
    def bare(values, release):
        values[700] = 0
        return values

    assert broken(recorded(bare)) == {"noise_of_weights"}


def test_a_weight_with_little_noise_is_found_in_many_releases():
    def little(values, release):
        values[700] *= 0.2
        return values

    assert broken(recorded(little, releases=60)) == {"noise_of_weights"}


@pytest.mark.parametrize("way", ["second half takes back the first", "shifted copy", "read backwards"])
def test_noise_that_is_used_twice_within_a_release_is_found(way):
    def twice(values, release):
        half = len(values) // 2
        if way == "second half takes back the first":
            values[half : 2 * half] = -values[:half]
        elif way == "shifted copy":
            values[1600:2900] = values[:1300]
        else:
            values[-half:] = values[:half].flip(0)
        return values

    checks = recorded(twice)
    assert "noise_within" in broken(checks) and checks["noise_within"].value > 20


@pytest.mark.parametrize("kind", ["two values", "uniform"])
def test_noise_of_the_right_size_and_another_distribution_is_found(kind):
    def other(values, release):
        if kind == "two values":
            return values.sign()
        return (torch.erf(values / 2**0.5)) * 3**0.5

    assert "noise_shape" in broken(recorded(other))


def test_a_bias_that_begins_with_the_noise_of_the_weights_is_found():
    def from_the_start(values, release):
        values[3000:] = values[:3]
        return values

    assert broken(recorded(from_the_start, releases=100)) == {"noise_between_tensors"}


def test_noise_that_comes_again_is_found():
    first = torch.randn(3003, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    checks = recorded(lambda values, release: first.clone() if release in (1, 4) else values)
    assert broken(checks) == {"repetition"}


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_noise_of_another_size_is_found(factor):
    assert "noise" in broken(recorded(lambda values, release: factor * values))
