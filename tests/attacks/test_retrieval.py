import dataclasses
import json
import math

import pytest
import torch
from torch import Tensor

from primia.attacks.contract import AttackReport, Verdict
from primia.attacks.results import worst, write_results
from primia.attacks.retrieval import unlikelihoods
from primia.attacks.run import hash_of, retrieval_curve, run_retrieval
from primia.config import Attack
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.training.private import private_gradient

CLASSES = ("normal", "bacterial", "viral")
SETTINGS = Attack(gallery=16, trials=40, confidence=0.95, seed=3)


class SeededNoise:
    """Reproducible noise, for tests only; `scale` 0.1 is the classic defect."""

    def __init__(self, scale: float = 1.0, seed: int = 0) -> None:
        self.scale = scale
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape) -> Tensor:
        return torch.randn(shape, generator=self.generator) * self.scale

    def uniform(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator, dtype=torch.float64)


def images_of(patients: int, *, pixels: int = 16, identical: bool = False) -> ImageSet:
    generator = torch.Generator().manual_seed(5)
    count = 2 * patients
    images = torch.rand(count, 1, pixels, pixels, generator=generator).half()
    labels = torch.arange(count) // 2 % 3
    if identical:
        images, labels = images[:1].expand_as(images).clone(), torch.zeros_like(labels)
    return ImageSet(
        images=images,
        labels=labels,
        patients=torch.arange(count) // 2,
        image_ids=tuple(f"image-{i}" for i in range(count)),
        patient_ids=tuple(f"patient-{i}" for i in range(patients)),
        classes=CLASSES,
    )


@pytest.fixture(scope="module")
def model() -> ReleasedModel:
    network = build_network("scattering", classes=3, pixels=16, seed=1)
    return ReleasedModel(
        network=network, architecture="scattering", classes=CLASSES, pixels=16, mean=0.5, std=0.29, round=0
    )


def attacked(model: ReleasedModel, images: ImageSet | None = None, **changes) -> AttackReport:
    arguments = {"clip_norm": 0.5, "noise_multiplier": 1.0, "settings": SETTINGS, "noise": SeededNoise()} | changes
    return run_retrieval(model, images_of(20) if images is None else images, **arguments)


@pytest.fixture(scope="module")
def honest(model) -> AttackReport:
    return attacked(model)


def test_an_honest_release_passes(honest):
    assert honest.verdict is Verdict.PASS
    assert honest.bound == pytest.approx(0.2966, abs=5e-5)
    assert honest.trials.interval(0.95)[0] <= honest.bound
    assert honest.controls.positive.successes == SETTINGS.trials
    assert honest.check.longest == pytest.approx(1.0, abs=2e-5)
    assert honest.check.noise == pytest.approx(1.0, abs=5 * honest.check.noise_error)


def test_equal_seeds_give_equal_trials(model, honest):
    again = attacked(model)
    assert dataclasses.replace(again, seconds=honest.seconds) == honest


def test_a_tenth_of_the_noise_is_a_failure_both_by_measurement_and_by_the_attacker(model):
    report = attacked(model, noise=SeededNoise(scale=0.1))
    assert report.verdict is Verdict.FAIL
    assert report.check.noise == pytest.approx(0.1, rel=1e-2)
    assert report.trials.interval(0.95)[0] > report.bound


def test_skipped_clipping_is_a_failure(model):
    def unclipped(head, *, clip_norm, noise_multiplier, noise, **step):
        """The clean gradient at full length, with noise of the declared size."""
        whole = private_gradient(head, clip_norm=math.inf, noise_multiplier=0.0, noise=noise, **step)
        if noise_multiplier == 0:
            return whole
        return {name: g + noise_multiplier * clip_norm * noise.normal(g.shape) for name, g in whole.items()}

    report = attacked(model, release=unclipped)
    assert report.verdict is Verdict.FAIL
    assert report.check.longest > 1.5
    assert "clip" in report.reason


def test_clipping_that_is_skipped_only_when_noise_is_added_is_a_failure(model):
    def unclipped_under_noise(head, *, clip_norm, noise_multiplier, noise, **step):
        limit = clip_norm if noise_multiplier == 0 else math.inf
        clean = private_gradient(head, clip_norm=limit, noise_multiplier=0.0, noise=noise, **step)
        return {name: g + noise_multiplier * noise.normal(g.shape) * clip_norm for name, g in clean.items()}

    report = attacked(model, release=unclipped_under_noise, clip_norm=0.02)
    assert report.verdict is Verdict.FAIL
    assert report.check.longest <= 1
    assert report.check.noise > 1 + 5 * report.check.noise_error
    assert report.trials.interval(0.95)[0] > report.bound


def test_identical_candidates_leave_the_question_open(model):
    report = attacked(model, images_of(20, identical=True))
    assert report.verdict is Verdict.INCONCLUSIVE
    assert report.controls.positive.rate < 0.3


def test_training_without_privacy_is_a_failure_with_no_bound(model):
    report = attacked(model, noise_multiplier=0.0)
    assert report.verdict is Verdict.FAIL
    assert report.bound is None and report.check is None
    assert report.trials == report.controls.positive
    assert "without differential privacy" in report.reason


def test_the_scores_order_candidates_by_distance():
    generator = torch.Generator().manual_seed(1)
    updates, gradients = torch.randn(5, 10_000, generator=generator), torch.randn(70, 10_000, generator=generator)
    scores = unlikelihoods(updates, iter(gradients))
    expected = torch.cdist(updates.double(), gradients.double()).square() - updates.double().square().sum(1)[:, None]
    torch.testing.assert_close(scores, expected)


def test_the_rate_falls_as_noise_grows(model):
    small = SETTINGS.model_copy(update={"trials": 24})
    points = retrieval_curve(
        model, images_of(20), clip_norm=0.5, settings=small, noise_multipliers=(0.02, 4.0), noise=SeededNoise()
    )
    assert [p.noise_multiplier for p in points] == [0.02, 4.0]
    assert points[0].trials.rate > 0.9 > 0.4 > points[1].trials.rate
    assert points[0].bound == pytest.approx(1.0) and points[1].bound == pytest.approx(0.0995, abs=5e-5)


def test_progress_ends_at_the_announced_total(model):
    seen = []
    attacked(model, settings=SETTINGS.model_copy(update={"trials": 16}), on_progress=lambda *now: seen.append(now))
    assert seen == [(done, 48) for done in range(1, 49)]


def test_too_few_patients_are_refused_with_a_way_out(model):
    with pytest.raises(DataError, match=r"needs 16 candidate patients, but there are 10; lower attack\.gallery"):
        attacked(model, images_of(10))


def test_images_of_another_size_are_refused(model):
    with pytest.raises(DataError, match=r"at 20 pixels, but the model has .* at 16"):
        attacked(model, images_of(20, pixels=20))


def test_the_data_hash_changes_with_one_pixel_and_with_one_label():
    images = images_of(16)
    brighter, relabelled = images.images.clone(), images.labels.clone()
    brighter[3, 0, 0, 0] += 0.5
    relabelled[0] = 2
    hashes = {
        hash_of(images),
        hash_of(dataclasses.replace(images, images=brighter)),
        hash_of(dataclasses.replace(images, labels=relabelled)),
    }
    assert len(hashes) == 3
    assert hash_of(images_of(16)) == hash_of(images)


def test_the_files_carry_the_worst_report_and_the_released_models_digest(tmp_path, model, honest):
    bad = dataclasses.replace(honest, verdict=Verdict.FAIL, model_digest="0" * 64)
    assert worst([honest, bad]) is bad
    curve = retrieval_curve(
        model,
        images_of(20),
        clip_norm=0.5,
        settings=SETTINGS.model_copy(update={"trials": 16}),
        noise_multipliers=(1.0,),
        noise=SeededNoise(),
    )
    write_results(tmp_path, [bad, honest], curve, model_digest=model.digest())
    document = json.loads((tmp_path / "attack.json").read_text())
    assert document["verdict"] == "FAIL" and document["model_digest"] == model.digest()
    assert [entry["verdict"] for entry in document["attacks"]] == ["FAIL", "PASS"]
    assert document["attacks"][1]["successes"] == honest.trials.successes
    assert document["data_hash"] == hash_of(images_of(20))
    assert json.loads((tmp_path / "metrics.json").read_text())["retrieval_bound"] == honest.bound
    header, row = (tmp_path / "retrieval.csv").read_text().splitlines()
    assert header == "noise_multiplier,rate,low,high,bound"
    assert float(row.split(",")[1]) == curve[0].trials.rate
