"""The tests of private training are worth something: each mistake that breaks its guarantee makes one of them fail."""

import inspect
import types

import pytest
import test_private as checks

from primia.training import private

_CALL = "clip_norm=clip_norm,\n            views=views,\n            precision=precision,\n        )\n        for name"
MISTAKES = {
    "shuffled batches instead of Poisson sampling": (
        "noise.uniform(len(index.count)) < sampling_rate",
        "torch.argsort(noise.uniform(len(index.count))) < round(sampling_rate * len(index.count))",
        lambda: checks.test_every_patient_is_drawn_with_the_sampling_rate_on_its_own(0.25),
    ),
    "noise of a tenth of its width": (
        "deviation=noise_multiplier * clip_norm",
        "deviation=0.1 * noise_multiplier * clip_norm",
        lambda: checks.test_an_empty_draw_is_noise_of_exactly_the_accounted_width(1.3, 1.0, 50.0),
    ),
    "noise only when somebody was drawn": (
        "if noise_multiplier > 0:",
        "if noise_multiplier > 0 and len(patients_drawn) > 0:",
        lambda: checks.test_every_step_draws_noise_for_every_weight_even_if_no_patient_came(),
    ),
    "clipping skipped": (
        _CALL,
        _CALL.replace("=clip_norm", "=float('inf')"),
        lambda: checks.test_no_patient_moves_the_sum_by_more_than_the_clip_norm(),
    ),
    "the actual instead of the expected batch": (
        "value.div_(expected_batch)",
        "value.div_(max(1, len(patients_drawn)))",
        lambda: checks.test_the_sum_is_divided_by_the_expected_batch_and_not_by_how_many_came(),
    ),
    "views clipped one by one": (
        _CALL,
        _CALL.replace("=views", "=1"),
        lambda: checks.test_the_views_of_a_drawn_patient_are_averaged_before_they_are_clipped(),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_makes_a_test_fail(monkeypatch, mistake):
    right, wrong, check = MISTAKES[mistake]
    check()
    source = inspect.getsource(private)
    assert source.count(right) == 1
    mutant = types.ModuleType(private.__name__)
    exec(compile(source.replace(right, wrong), "mutant", "exec"), vars(mutant))
    for name in ("private_gradient", "train_private", "draw_patients"):
        monkeypatch.setattr(checks, name, getattr(mutant, name))
    with pytest.raises(AssertionError):
        check()
