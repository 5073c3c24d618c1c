import math

import numpy as np
import pytest

from primia.config import Server
from primia.federation.server_optimiser import initial_state, server_step


def changes(steps, parameters=50):
    random = np.random.default_rng(1)
    return [0.01 * random.standard_normal(parameters) for _ in range(steps)]


def test_fedavg_adds_the_mean_change_bit_for_bit():
    model, change = np.random.default_rng(0).standard_normal(50).astype(np.float32), changes(1)[0]
    moved, state = server_step(Server(), model, change, initial_state(50))
    np.testing.assert_array_equal(moved, (model.astype(np.float64) + change).astype(np.float32))
    assert state.step == 1
    assert state.first.size == state.second.size == 0, "nothing to carry along"


def test_fedavg_takes_a_part_of_the_step_with_a_smaller_learning_rate():
    model, change = np.zeros(50, dtype=np.float32), changes(1)[0]
    moved, _ = server_step(Server(learning_rate=0.25), model, change, initial_state(50))
    np.testing.assert_array_equal(moved, (0.25 * change).astype(np.float32))


def test_two_steps_of_fedadam_by_hand():
    settings = Server(optimiser="fedadam", learning_rate=0.1, beta1=0.5, beta2=0.75, tau=0.01)
    model = np.array([1.0, -2.0], dtype=np.float32)
    model, state = server_step(settings, model, np.array([0.4, 0.0]), initial_state(2))
    # Momentum 0.5·0.4 = 0.2; second moment 0.75·0.0001 + 0.25·0.04 = 0.010075.
    assert state.first == pytest.approx([0.2, 0.0])
    assert state.second == pytest.approx([0.010075, 0.000075])
    assert model == pytest.approx([1.0 + 0.02 / (math.sqrt(0.010075) + 0.01), -2.0])
    # Momentum 0.5·0.2 - 0.5·0.2 = 0 and 0.1; second moment 0.75·0.010075 and 0.75·0.000075 + 0.25·0.01.
    after_one = model.copy()
    model, state = server_step(settings, model, np.array([-0.2, 0.2]), state)
    assert state.step == 2
    assert state.first == pytest.approx([0.0, 0.1])
    assert state.second == pytest.approx([0.00755625, 0.00255625])
    assert model[0] == pytest.approx(after_one[0])
    assert model[1] == pytest.approx(-2.0 + 0.01 / (math.sqrt(0.00255625) + 0.01))


def test_a_coordinate_that_never_changes_stays_where_it_is():
    settings, model, state = Server(optimiser="fedadam", learning_rate=0.01), np.ones(3, np.float32), initial_state(3)
    for _ in range(5):
        model, state = server_step(settings, model, np.array([0.0, 0.1, -1e-9]), state)
    assert model[0] == 1.0
    assert model[1] > 1.01
    assert model[2] == pytest.approx(1.0, abs=1e-6), "τ keeps a tiny change tiny"


def test_the_arguments_are_left_as_they_were_and_equal_ones_give_equal_bits():
    settings, outcomes = Server(optimiser="fedadam", learning_rate=0.01), []
    for _ in range(2):
        model, state = np.ones(50, dtype=np.float32), initial_state(50)
        for change in changes(3):
            copies = (model.copy(), change.copy(), state.first.copy(), state.second.copy())
            moved, later = server_step(settings, model, change, state)
            for before, now in zip(copies, (model, change, state.first, state.second), strict=True):
                np.testing.assert_array_equal(before, now)
            model, state = moved, later
        outcomes.append(model)
    np.testing.assert_array_equal(*outcomes)
    assert outcomes[0].dtype == np.float32
