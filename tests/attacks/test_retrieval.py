import dataclasses
import functools
import math
import os

import pytest
import torch
from scenes import DECLARED, SETTINGS, SMALL, SeededNoise, images_of, model_of, report_of, scene_of

from primia.attacks import retrieval
from primia.attacks.contract import Verdict
from primia.attacks.mutations import mutate
from primia.attacks.retrieval import GradientRetrieval, unlikelihoods
from primia.attacks.shared_noise import HonestHospitals
from primia.errors import DataError
from primia.privacy.noise import SystemNoise
from primia.training.private import private_gradient, train_private

STEP, ROUND = GradientRetrieval("first"), GradientRetrieval("released", view="round")


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return report_of(STEP, scene_of(), tmp_path_factory.mktemp("honest"))


def checks_of(report):
    return {check.name: check for check in report.outcome.checks}


def test_an_honest_step_passes(honest):
    assert honest.verdict is Verdict.PASS
    assert honest.outcome.bound == pytest.approx(0.2966, abs=5e-5)
    assert honest.outcome.trials.interval(0.95)[0] <= honest.outcome.bound
    assert honest.outcome.positive.successes == SMALL.retrieval_trials
    assert checks_of(honest)["longest"].value == pytest.approx(1.0, abs=2e-5)
    assert checks_of(honest)["noise"].value == pytest.approx(1.0, abs=5 * honest.outcome.facts["noise_error"])


def test_an_honest_round_passes_and_is_held_against_the_bound_of_its_steps(tmp_path):
    report = report_of(ROUND, scene_of(), tmp_path)
    assert report.verdict is Verdict.PASS
    # Two steps at a sampling rate of one half: more than one such step, less than two steps that all take part in.
    assert 0.17 < report.outcome.bound < 0.43
    assert report.outcome.positive.successes == SMALL.retrieval_trials


def test_a_round_that_carries_a_tenth_of_the_noise_is_a_failure(tmp_path):
    def silent(head, *, noise_multiplier, **settings):
        train_private(head, noise_multiplier=0.1 * noise_multiplier, **settings)

    report = report_of(
        ROUND, scene_of(trainer=silent, budget=dataclasses.replace(SMALL, retrieval_trials=80)), tmp_path
    )
    assert report.verdict is Verdict.FAIL
    assert report.outcome.trials.interval(0.95)[0] > report.outcome.bound


def test_equal_seeds_give_equal_trials(honest, tmp_path):
    again = report_of(STEP, scene_of(), tmp_path)
    assert dataclasses.replace(again, seconds=honest.seconds) == honest


def test_parts_of_a_large_attack_are_other_trials_on_the_same_patients(monkeypatch, tmp_path):
    monkeypatch.setattr(retrieval, "_TRIALS", 16)
    scene = scene_of()
    assert STEP.parts(scene) == 3
    report = report_of(STEP, scene, tmp_path)
    assert report.outcome.trials.total == SMALL.retrieval_trials
    assert report.outcome.facts["patients"] == 20
    one, other = (STEP.part(scene, index, lambda *_: None).values for index in (0, 2))
    assert (one["trials"], other["trials"]) == (16, 8)


def test_a_tenth_of_the_noise_is_a_failure_both_by_measurement_and_by_the_attacker(tmp_path):
    report = report_of(STEP, scene_of(noise=SeededNoise(scale=0.1)), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert checks_of(report)["noise"].value == pytest.approx(0.1, rel=1e-2)
    assert report.outcome.trials.interval(0.95)[0] > report.outcome.bound


def test_noise_that_is_used_again_is_a_failure(tmp_path):
    class Repeating(SeededNoise):
        def normal(self, shape):
            return torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    report = report_of(STEP, scene_of(noise=Repeating()), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert not checks_of(report)["repetition"].holds
    assert "used again" in report.reason


@pytest.mark.parametrize(
    ("mutation", "check"),
    [
        ("some weights without noise", "noise_of_weights"),
        ("noise that cancels", "noise_within"),
        ("noise of two values", "noise_shape"),
        ("images taken for patients", "longest"),
    ],
)
def test_a_flaw_that_the_deviation_of_the_noise_does_not_show_is_a_failure(tmp_path, mutation, check):
    # Clipped far below what gradients are long, so that a patient who counts by image counts more than once.
    declared = dataclasses.replace(DECLARED, views=3, clip_norm=0.01)
    report = report_of(STEP, mutate(scene_of(declared=declared), mutation), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert not checks_of(report)[check].holds


def test_clipping_that_depends_on_who_else_takes_part_is_a_failure(tmp_path):
    def by_mean(head, *, clip_norm, noise_multiplier, noise, patients_drawn, **step):
        """All are scaled alike, so that they are as long as the clip norm on average."""
        whole = functools.partial(private_gradient, head, noise=noise, **step)
        each = [patients_drawn[place : place + 1] for place in range(len(patients_drawn))]
        alone = [whole(patients_drawn=one, clip_norm=math.inf, noise_multiplier=0.0) for one in each]
        lengths = [math.sqrt(sum(float(g.double().square().sum()) for g in one.values())) for one in alone]
        scale = clip_norm * len(lengths) / sum(lengths) if lengths and math.isfinite(clip_norm) else 1.0
        empty = whole(patients_drawn=patients_drawn[:0], clip_norm=clip_norm, noise_multiplier=noise_multiplier)
        return {name: empty[name] + scale * sum(one[name] for one in alone) for name in empty}

    report = report_of(STEP, scene_of(step=by_mean, model=model_of("convnet")), tmp_path)
    checks = checks_of(report)
    assert report.verdict is Verdict.FAIL
    assert checks["longest"].holds, "of one patient alone"
    assert checks["influence"].value > 1.05 and "who else takes part" in checks["influence"].broken


def test_an_empty_step_without_noise_is_a_failure(tmp_path):
    def quiet(head, *, patients_drawn, noise_multiplier, **step):
        noise_multiplier = noise_multiplier if len(patients_drawn) else 0.0
        return private_gradient(head, patients_drawn=patients_drawn, noise_multiplier=noise_multiplier, **step)

    report = report_of(STEP, scene_of(step=quiet), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert [name for name, check in checks_of(report).items() if not check.holds] == ["noise_of_nobody"]


def test_a_source_that_always_begins_alike_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "urandom", lambda n: bytes(n))
    report = report_of(STEP, scene_of(noise=None), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert not checks_of(report)["repetition"].holds


def test_skipped_clipping_is_a_failure(tmp_path):
    def unclipped(head, *, clip_norm, noise_multiplier, noise, **step):
        """The clean gradient at full length, with noise of the declared size."""
        whole = private_gradient(head, clip_norm=math.inf, noise_multiplier=0.0, noise=noise, **step)
        if noise_multiplier == 0:
            return whole
        return {name: g + noise_multiplier * clip_norm * noise.normal(g.shape) for name, g in whole.items()}

    report = report_of(STEP, scene_of(step=unclipped), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert checks_of(report)["longest"].value > 1.5
    assert "clip" in report.reason


def test_clipping_that_is_skipped_only_when_noise_is_added_is_a_failure(tmp_path):
    def unclipped_under_noise(head, *, clip_norm, noise_multiplier, noise, **step):
        limit = clip_norm if noise_multiplier == 0 else math.inf
        clean = private_gradient(head, clip_norm=limit, noise_multiplier=0.0, noise=noise, **step)
        return {name: g + noise_multiplier * noise.normal(g.shape) * clip_norm for name, g in clean.items()}

    declared = dataclasses.replace(DECLARED, clip_norm=0.02)
    report = report_of(STEP, scene_of(step=unclipped_under_noise, declared=declared), tmp_path)
    assert report.verdict is Verdict.FAIL
    checks = checks_of(report)
    assert checks["longest"].holds and not checks["noise"].holds
    assert report.outcome.trials.interval(0.95)[0] > report.outcome.bound


def test_a_sum_with_noise_in_shares_passes_and_with_one_share_too_few_does_not(tmp_path):
    honest = HonestHospitals(hospitals=4, threshold=3, curious=1)
    share = honest.share(clip_norm=0.5, noise_multiplier=1.0, parameters=2607)
    declared = dataclasses.replace(DECLARED, discrete=True, noise_seen=honest.deviation(share))
    scene = scene_of(declared=declared, step=honest.step, trainer=honest.train, noise=SystemNoise())
    assert report_of(STEP, scene, tmp_path).verdict is Verdict.PASS

    class Idle(SystemNoise):
        """Every second share is zero."""

        drawn = 0

        def discrete(self, n):
            self.drawn += 1
            return super().discrete(n) * (self.drawn % 2)

    report = report_of(STEP, dataclasses.replace(scene, noise=Idle()), tmp_path / "idle")
    assert report.verdict is Verdict.FAIL
    assert checks_of(report)["noise"].value == pytest.approx(0.5**0.5, rel=1e-2)


def test_identical_candidates_leave_the_question_open(tmp_path):
    report = report_of(STEP, scene_of(candidates=images_of(20, identical=True)), tmp_path)
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.outcome.positive.rate < 0.3
    assert "cannot judge this network" in report.reason


def test_training_without_privacy_is_a_failure_with_no_bound(tmp_path):
    report = report_of(STEP, scene_of(declared=None), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert report.outcome.bound is None and report.outcome.checks == ()
    assert report.outcome.trials == report.outcome.positive
    assert "without differential privacy" in report.reason


def test_the_scores_order_candidates_by_distance():
    generator = torch.Generator().manual_seed(1)
    updates, gradients = torch.randn(5, 10_000, generator=generator), torch.randn(70, 10_000, generator=generator)
    scores = unlikelihoods(updates, iter(gradients), patients=70)
    expected = torch.cdist(updates.double(), gradients.double()).square() - updates.double().square().sum(1)[:, None]
    torch.testing.assert_close(scores, expected)
    thrice = unlikelihoods(3 * gradients[:5], iter(gradients), patients=70, most_steps=4)
    assert thrice.argmin(dim=1).tolist() == [0, 1, 2, 3, 4]
    torch.testing.assert_close(thrice.diagonal()[:5], -9 * gradients[:5].double().square().sum(1))


def test_the_rate_falls_as_noise_grows(monkeypatch, tmp_path):
    monkeypatch.setattr(retrieval, "CURVE", (0.02, 4.0))
    report = report_of(GradientRetrieval("released"), scene_of(), tmp_path)
    small, large = report.outcome.facts["curve"]
    assert (small["noise_multiplier"], large["noise_multiplier"]) == (0.02, 4.0)
    assert small["rate"] > 0.9 > 0.4 > large["rate"]
    assert small["bound"] == pytest.approx(1.0) and large["bound"] == pytest.approx(0.0995, abs=5e-5)


def test_progress_ends_at_the_announced_total():
    seen = []
    scene = scene_of(budget=dataclasses.replace(SMALL, retrieval_trials=16))
    STEP.part(scene, 0, lambda *now: seen.append(now))
    assert seen == [(done, 48) for done in range(1, 49)]


def test_too_few_patients_are_refused_with_a_way_out(tmp_path):
    with pytest.raises(DataError, match=r"needs 16 candidate patients, but there are 10; lower attack\.gallery"):
        report_of(STEP, scene_of(candidates=images_of(10)), tmp_path)


def test_images_of_another_size_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"at 20 pixels, but the model has .* at 16"):
        report_of(STEP, scene_of(candidates=images_of(20, pixels=20)), tmp_path)


def test_a_deep_network_is_retrieved_from_its_updates(tmp_path):
    scene = scene_of(model=model_of("convnet"), settings=SETTINGS.model_copy(update={"seed": 5}))
    report = report_of(STEP, scene, tmp_path)
    assert report.outcome.positive.successes == SMALL.retrieval_trials
    assert report.verdict is Verdict.PASS
