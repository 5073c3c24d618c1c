import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn

from primia.attacks.audit import CURVE, OneRunAudit
from primia.attacks.audit_bounds import (
    audited_epsilon,
    least_separation,
    one_run_p_value,
    rate_below,
    separation_of,
    too_many_right,
)
from primia.attacks.audit_checks import separation_check
from primia.attacks.audit_plan import expected_right, of_steps, plan, steps_within
from primia.attacks.budget import QUICK
from primia.attacks.canaries import observe
from primia.attacks.contract import Check, Outcome, Trials
from primia.attacks.mutations import MUTATIONS, RepeatingNoise, mutate
from primia.attacks.scene import Declared, Scene
from primia.attacks.shared_noise import HonestHospitals
from primia.config import Attack, Training
from primia.data.image_set import ImageSet
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.privacy.accounting import epsilon_of, quick_epsilon
from primia.privacy.curve import PrivacyCurve, privacy_curve
from primia.privacy.discrete_gaussian import discrete_gaussian
from primia.privacy.noise import SystemNoise
from primia.privacy.release import Release
from primia.training.private import train_private

CLASSES = ("normal", "bacterial", "viral")
TERMS = Declared(
    clip_norm=0.5,
    noise_multiplier=1.5,
    noise_seen=1.5,
    sampling_rate=0.5,
    steps=10,
    steps_per_round=3,
    views=2,
    learning_rate=0.3,
    expected_batch=20.0,
    statistics_noise=10.0,
    delta=1e-4,
    epsilon=0.0,
)
DECLARED = dataclasses.replace(TERMS, epsilon=epsilon_of(TERMS.everything(), delta=TERMS.delta))
ACCOUNTS, CURVES = 3, 4  # the first parts of these kinds, after two controls and the transcript


def model_of(seed: int) -> ReleasedModel:
    network = build_network("scattering", classes=3, pixels=16, seed=seed)
    with torch.no_grad():
        for weight in network.head.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(seed))
    return ReleasedModel(
        network=network, architecture="scattering", classes=CLASSES, pixels=16, mean=0.5, std=0.29, round=seed
    )


class SeededNoise:
    """Reproducible noise, for tests only."""

    def __init__(self, seed: int = 0) -> None:
        self.normals = torch.Generator().manual_seed(seed)
        self.words = np.random.default_rng(seed)

    def normal(self, shape):
        return torch.randn(tuple(shape), generator=self.normals, dtype=torch.float64)

    def uniform(self, n):
        return torch.rand(n, generator=self.normals, dtype=torch.float64)

    def discrete(self, n):
        return discrete_gaussian(lambda count: self.words.integers(0, 2**64, count, dtype=np.uint64), n)


@pytest.fixture(scope="module")
def models() -> tuple[ReleasedModel, ReleasedModel]:
    return model_of(0), model_of(1)


def scene_of(models) -> Scene:
    nobody = ImageSet(
        images=torch.zeros(0, 1, 16, 16, dtype=torch.float16),
        labels=torch.zeros(0, dtype=torch.int64),
        patients=torch.zeros(0, dtype=torch.int64),
        image_ids=(),
        patient_ids=(),
        classes=CLASSES,
    )
    return Scene(
        first=models[0],
        released=models[1],
        candidates=nobody,
        declared=DECLARED,
        training=Training(learning_rate=0.05),
        budget=dataclasses.replace(QUICK, canaries=800),
        settings=Attack(seed=3),
        noise=SeededNoise(),
    )


@pytest.fixture
def scene(models) -> Scene:
    return scene_of(models)


def quiet(done: int, total: int) -> None:
    pass


def audited(scene: Scene) -> Outcome:
    """All but the curve, which no verdict depends on."""
    audit = OneRunAudit()
    parts = range(min(CURVES, audit.parts(scene)))
    return audit.gather(scene, [audit.part(scene, index, quiet) for index in parts])


def flagged(outcome: Outcome, *, confidence: float = 0.999) -> list[str]:
    """What a verdict of FAIL rests on."""
    names = [check.name for check in outcome.checks if not check.holds]
    beaten = outcome.bound is not None and outcome.trials.interval(confidence)[0] > outcome.bound
    return [*names, "bound"] if beaten else names


def check_of(outcome: Outcome, name: str) -> Check:
    [check] = [check for check in outcome.checks if check.name == name]
    return check


@pytest.fixture(scope="module")
def progress() -> list[list[tuple[int, int]]]:
    """What each part of the honest audit told of itself."""
    return []


@pytest.fixture(scope="module")
def honest(models, progress) -> Outcome:
    audit, scene, parts = OneRunAudit(), scene_of(models), []
    for index in range(audit.parts(scene)):
        told: list[tuple[int, int]] = []
        parts.append(audit.part(scene, index, lambda done, total, told=told: told.append((done, total))))
        progress.append(told)
    return audit.gather(scene, parts)


@pytest.mark.parametrize(("guesses", "ceiling"), [(100, 3.49), (500, 5.11), (1000, 5.81)])
def test_all_guesses_right_prove_no_more_than_the_known_ceiling(guesses, ceiling):
    proved = audited_epsilon(canaries=guesses, guesses=guesses, right=guesses, delta=0.0, confidence=0.95)
    assert proved == pytest.approx(ceiling, abs=5e-3)


def test_the_p_value_is_the_binomial_tail_and_grows_with_delta():
    figures = {"canaries": 1000, "guesses": 200, "right": 150}
    without = one_run_p_value(**figures, epsilon=0.7, delta=0.0)
    assert without == pytest.approx(binom.sf(149, 200, 1 / (1 + math.exp(-0.7))))
    # 2mδ/i · P[150 > B ≥ 150 − i] by hand, at every i.
    likely = 1 / (1 + math.exp(-0.7))
    slack = max((binom.cdf(149, 200, likely) - binom.cdf(149 - i, 200, likely)) / i for i in range(1, 151))
    assert one_run_p_value(**figures, epsilon=0.7, delta=1e-5) == pytest.approx(without + 0.02 * slack)


def test_half_of_the_guesses_right_prove_nothing():
    assert audited_epsilon(canaries=1000, guesses=100, right=50, delta=0.0, confidence=0.95) == 0.0


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_randomised_response_seldom_has_too_many_right_and_would_with_one_less_privacy(epsilon):
    curve = PrivacyCurve(np.array([epsilon]), np.array([0.0]))
    likely = 1 / (1 + math.exp(-epsilon))
    for guesses in (60, 300):
        needed = too_many_right(curve, canaries=1000, guesses=guesses, chance=0.01)
        exact = int(binom.isf(0.01, guesses, likely)) + 1  # what a binomial exceeds with a chance of 0.01
        assert exact <= needed <= exact + 2


def test_a_mechanism_that_gives_all_away_with_chance_delta_is_allowed_to():
    def needed(delta: float) -> int:
        curve = PrivacyCurve(np.array([1.0]), np.array([delta]))
        return too_many_right(curve, canaries=500, guesses=500, chance=1e-3)

    assert needed(0.0) < needed(1e-4) <= 500 < needed(1e-3)


def test_a_gaussian_release_seldom_has_too_many_right():
    steps, canaries, guesses, chance = 4, 400, 80, 0.05
    needed = too_many_right(
        privacy_curve([Release(1.0, 2.0, steps)]), canaries=canaries, guesses=guesses, chance=chance
    )
    draw = torch.Generator().manual_seed(1)
    coins = torch.rand(4000, canaries, generator=draw) < 0.5
    scores = coins + torch.randn(4000, canaries, generator=draw)  # μ = √4 / 2
    right = coins.gather(1, scores.topk(guesses, dim=1).indices).sum(dim=1)
    assert needed <= guesses
    assert float((right >= needed).float().mean()) <= chance
    assert float(right.float().mean()) == pytest.approx(
        expected_right(canaries=canaries, guesses=guesses, sampling_rate=1.0, steps=steps, noise=2.0), rel=0.01
    )


def test_the_bound_turns_the_count_into_a_rate_that_exact_intervals_exceed():
    bound = rate_below(93, guesses=100, confidence=0.999)
    assert Trials(92, 100, 0.5).interval(0.999)[0] < bound < Trials(93, 100, 0.5).interval(0.999)[0]
    assert rate_below(101, guesses=100, confidence=0.999) == 1.0


def test_one_threshold_separates_two_normal_distributions():
    # 97.7 % against 2.3 % is Φ⁻¹(0.977) − Φ⁻¹(0.023) = 4; the exact ends take some of it.
    many = least_separation(caught=97_725, inserted=100_000, alarms=2_275, absent=100_000, confidence=0.95)
    assert 3.9 < many < 4.0
    assert least_separation(caught=50, inserted=100, alarms=50, absent=100, confidence=0.95) == 0.0
    assert least_separation(caught=0, inserted=100, alarms=100, absent=100, confidence=0.95) == 0.0


@pytest.mark.parametrize(("noise", "rate", "steps"), [(0.5, 0.1, 20), (1.0, 0.5, 1), (2.0, 0.5, 40), (0.8, 0.02, 300)])
def test_a_poisson_sample_separates_less_than_the_gaussian_of_its_epsilon(noise, rate, steps):
    from scipy.stats import norm

    claimed = separation_of(quick_epsilon([Release(rate, noise, steps)], delta=1e-4), delta=1e-4)
    counts, deviation, threshold = np.arange(steps + 1), noise * math.sqrt(steps), rate * steps / 2
    caught = float(binom.pmf(counts, steps, rate) @ norm.sf((threshold - counts) / deviation))
    assert norm.ppf(caught) - norm.ppf(norm.sf(threshold / deviation)) < claimed


def test_the_gaussian_of_an_epsilon_is_found_again():
    assert separation_of(epsilon_of([Release(1.0, 2.0, 9)], delta=1e-5), delta=1e-5) == pytest.approx(1.5, abs=1e-5)


def test_a_claim_that_the_scores_refute_is_flagged_whatever_the_accountants_say():
    draw = torch.Generator().manual_seed(2)
    coins = torch.rand(1000, generator=draw) < 0.5
    scores = 2.5 * coins + torch.randn(1000, generator=draw) * 1.5  # μ = 5/3 at half of 5 steps
    claimed = epsilon_of([Release(1.0, 1.5 / 2.5, 1)], delta=1e-4)
    for epsilon, holds in ((claimed, True), (claimed / 3, False)):
        declared = dataclasses.replace(DECLARED, epsilon=epsilon)
        assert separation_check(scores, coins, declared=declared, steps=5).holds is holds


def test_a_canary_keeps_its_full_length_however_often_it_is_trained_on(scene):
    """The first canary's gradient is one clip norm in each of 60 steps, and in no coordinate but its own."""
    terms = dataclasses.replace(DECLARED, sampling_rate=1.0, noise_multiplier=0.0, noise_seen=0.0)
    coins = torch.tensor([True, False])
    seen = observe(scene, nn.Linear(5, 3), classes=3, terms=terms, coins=coins, calls=(1, 19, 40))
    torch.testing.assert_close(
        seen.scores, torch.tensor([[1.0, 0.0], [19.0, 0.0], [40.0, 0.0]], dtype=torch.float64), rtol=1e-4, atol=1e-6
    )


def test_an_honest_release_is_not_flagged_and_both_controls_do_what_they_must(honest):
    assert flagged(honest) == []
    assert honest.positive.successes == honest.positive.total == honest.trials.total
    assert honest.positive.interval(0.999)[0] >= max(honest.convincing, honest.bound)
    low, high = honest.negative.interval(0.999)
    assert low <= 0.5 <= high
    assert {check.name for check in honest.checks} == {
        "noise", "noise_of_tensors", "noise_of_weights", "noise_shape", "noise_within", "noise_between_tensors",
        "repetition", "signal", "sampling", "independence", "companions", "separation", "accounting"
    }  # fmt: skip
    assert check_of(honest, "noise").value == pytest.approx(1.0, abs=0.02)
    assert check_of(honest, "accounting").value == pytest.approx(1.0, abs=1e-6)


def test_the_figures_are_in_order_and_survive_json(honest):
    facts = json.loads(json.dumps(honest.facts))
    whole = facts["whole"]
    assert whole["steps"] == DECLARED.steps and facts["steps"] < whole["steps"]
    assert facts["epsilon"] < whole["epsilon"] < facts["claimed"] == pytest.approx(facts["recomputed"])
    assert 0 < whole["epsilon_lower"] < min(whole["epsilon"], whole["ceiling"])
    assert whole["epsilon_lower"] < whole["epsilon_gaussian"] < whole["epsilon"]
    assert [row["noise_multiplier"] for row in facts["curve"]] == [factor * 1.5 for factor in CURVE]
    accounted = [row["epsilon"] for row in facts["curve"]]
    assert accounted == sorted(accounted, reverse=True)
    assert facts["curve"][0]["epsilon_lower"] == pytest.approx(facts["curve"][0]["ceiling"])
    assert facts["curve"][-1]["epsilon_gaussian"] < facts["curve"][0]["epsilon_gaussian"]
    assert len(honest.pictures["scores_in"]) + len(honest.pictures["scores_out"]) == 800
    # Drawn in half of 10 steps.
    assert float(honest.pictures["scores_in"].mean()) == pytest.approx(5.0, abs=1.2)


EXPECTED = {
    "a tenth of the noise": {"noise", "separation", "bound"},
    "clipping skipped": {"signal", "separation", "bound"},
    "noise repeated": {"noise", "repetition"},
    "some weights without noise": {"noise_of_weights"},
    "noise that cancels": {"noise_within"},
    "images taken for patients": {"signal", "separation"},
    "a third of epsilon claimed": {"accounting"},
    "composition forgotten": {"accounting"},
    "noise of two values": {"noise_shape"},
    "half the sampling rate accounted": {"signal", "sampling", "independence"},
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_flagged_for_what_it_is(scene, name):
    assert EXPECTED[name] <= set(flagged(audited(mutate(scene, name))))


def test_mutations_of_a_single_step_change_its_noise_and_its_length_as_named(scene):
    def released(name: str, noise_multiplier: float) -> torch.Tensor:
        broken = mutate(scene, name)
        gradient = broken.step(
            nn.Linear(4000, 3, bias=False),
            inputs=torch.ones(1, 4000),
            labels=torch.tensor([0]),
            patients_drawn=torch.tensor([0]),
            clip_norm=0.5,
            noise_multiplier=noise_multiplier,
            expected_batch=1.0,
            noise=broken.noise_source(),
        )
        return gradient["weight"]

    assert float(released("clipping skipped", 0.0).norm()) > 10
    assert float(released("a tenth of the noise", 0.0).double().norm()) == pytest.approx(0.5, rel=1e-5)
    assert float(released("a tenth of the noise", 40.0).std()) == pytest.approx(2.0, rel=0.05)
    assert float(released("clipping skipped", 40.0).std()) == pytest.approx(20.0, rel=0.05)


def test_noise_that_repeats_itself_from_round_to_round_only_is_flagged(scene):
    def reseeded(head, *, noise, **arguments):
        """Fresh noise within a call, and the same again in the next: a generator seeded anew every round."""
        again = SeededNoise()
        again.uniform = noise.uniform
        train_private(head, noise=again, **arguments)

    outcome = audited(dataclasses.replace(scene, trainer=reseeded))
    assert "repetition" in flagged(outcome) and check_of(outcome, "noise").holds
    assert check_of(outcome, "repetition").value > 0.99


def test_a_shuffled_loader_in_place_of_poisson_sampling_is_flagged(scene):
    def shuffling(head, *, inputs, labels, patients, sampling_rate, steps, noise, **arguments):
        """Every patient once in each epoch, whose batches are disjoint."""
        batches, people = round(1 / sampling_rate), torch.unique(patients)
        for step in range(steps):
            if step % batches == 0 or step == 0:
                order = people[torch.argsort(noise.uniform(len(people)))]
            batch = torch.isin(patients, order[step % batches :: batches])
            train_private(
                head,
                inputs=inputs[batch],
                labels=labels[batch],
                patients=patients[batch],
                sampling_rate=1.0,
                steps=1,
                noise=noise,
                **arguments,
            )

    outcome = audited(dataclasses.replace(scene, trainer=shuffling))
    assert "independence" in flagged(outcome)
    assert check_of(outcome, "signal").holds and check_of(outcome, "noise").holds


def test_patients_who_are_drawn_together_are_flagged(scene, monkeypatch):
    def in_pairs(index, *, sampling_rate, noise, views):
        """One coin for two neighbours."""
        patients = len(index.count)
        drawn = (noise.uniform((patients + 1) // 2) < sampling_rate).repeat_interleave(2)[:patients]
        first, count = index.first[drawn, None], index.count[drawn, None]
        return index.images[first + (noise.uniform(len(count) * views).view(-1, views) * count).long()]

    monkeypatch.setattr("primia.training.private.draw_patients", in_pairs)
    assert flagged(audited(scene)) == ["companions"]


def test_repeated_noise_draws_patients_afresh():
    noise = RepeatingNoise(SystemNoise())
    assert torch.equal(noise.normal((3, 4)), noise.normal((3, 4)))
    assert not torch.equal(noise.normal((3, 4)).flatten(), noise.normal((12,)))
    assert not torch.equal(noise.uniform(50), noise.uniform(50))
    assert np.array_equal(noise.discrete(9), noise.discrete(9))


def test_noise_in_shares_is_audited_by_what_the_attacker_sees_of_it(scene):
    # One of two hospitals is curious: the other's share is all that hides a patient.
    honest = HonestHospitals(hospitals=2, threshold=2, curious=1)

    def noise_with(parameters):
        share = honest.share(clip_norm=DECLARED.clip_norm, noise_multiplier=1.5, parameters=parameters)
        return honest.deviation(share)

    scene = dataclasses.replace(scene, noise_with=noise_with)
    terms = dataclasses.replace(DECLARED, steps_per_round=1, discrete=True, noise_seen=noise_with(3 * 217 * 4 + 3))
    declared = dataclasses.replace(terms, epsilon=epsilon_of(terms.everything(), delta=terms.delta))
    outcome = audited(dataclasses.replace(scene, declared=declared, trainer=honest.train))
    assert flagged(outcome) == []
    assert check_of(outcome, "noise").value == pytest.approx(1.0, abs=0.02)
    assert outcome.positive.successes == outcome.positive.total
    # As if the port of the canaries made the noise another.
    other = dataclasses.replace(scene, declared=declared, trainer=honest.train, noise_with=lambda n: 1e-4 * n)
    assert "noise" in flagged(audited(other))


def test_without_declared_privacy_the_attacker_is_right_and_nothing_is_checked(scene):
    outcome = audited(dataclasses.replace(scene, declared=None))
    assert outcome.trials == outcome.positive == Trials(80, 80, 0.5)
    assert outcome.bound is None and outcome.checks == ()
    low, high = outcome.negative.interval(0.999)
    assert low <= 0.5 <= high


def test_thirty_honest_audits_raise_no_alarm(scene):
    audit = OneRunAudit()
    small = dataclasses.replace(scene, budget=dataclasses.replace(QUICK, canaries=200))
    accounts = audit.part(small, ACCOUNTS, quiet)
    alarms = []
    for seed in range(30):
        again = dataclasses.replace(small, settings=Attack(seed=seed))
        fresh = [audit.part(again, index, quiet) for index in range(ACCOUNTS)]
        alarms += flagged(audit.gather(again, [*fresh, accounts]))
    assert alarms == []


def test_the_plan_can_be_resolved_and_depends_on_the_declared_privacy_alone():
    planned = plan(DECLARED, canaries=1000, confidence=0.999, steps=10)
    assert sum(planned.calls) == 10 and len(planned.calls) >= 2
    assert planned.bound < Trials(planned.guesses, planned.guesses, 0.5).interval(0.999)[0]
    assert 0.2 < planned.noise_found < 1
    assert plan(dataclasses.replace(DECLARED, epsilon=1.0), canaries=1000, confidence=0.999, steps=10) == planned
    noisier = dataclasses.replace(DECLARED, noise_multiplier=6.0, noise_seen=6.0)
    assert plan(noisier, canaries=1000, confidence=0.999, steps=10).bound < planned.bound


def test_a_large_model_is_audited_for_fewer_steps_and_says_so(scene):
    assert steps_within(1000, weights=44_667, steps=40) == 40
    assert steps_within(10_000, weights=11_171_000, steps=40) == 17
    network = build_network("resnet9", classes=3, pixels=32, seed=1)
    large = dataclasses.replace(scene.released, network=network, architecture="resnet9", pixels=32)
    few = dataclasses.replace(scene, released=large, budget=dataclasses.replace(QUICK, canaries=200))
    outcome = audited(few)
    assert flagged(outcome) == []
    assert outcome.facts["whole"]["steps"] == 2
    assert outcome.facts["whole"]["epsilon"] == pytest.approx(
        quick_epsilon(of_steps(DECLARED, 2), delta=1e-4), rel=1e-9
    )
    assert "Only these of 10 steps were audited" in outcome.limits[-1]


def test_progress_of_every_part_ends_at_its_total(honest, progress):
    assert len(progress) == CURVES + len(CURVE)
    assert all(told[-1][0] == told[-1][1] and told == sorted(told) for told in progress)


def test_the_models_are_left_as_they_were(models, honest):
    assert [model.digest() for model in models] == [model_of(0).digest(), model_of(1).digest()]
