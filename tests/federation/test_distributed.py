"""The trust model in which only the sum over the hospitals carries the noise, with real sites in this process."""

import json

import numpy as np
import pytest
import torch
from federating import NAMES, InProcessChannel, Joined, calibrated, federated, make_sites

from primia.data.image_set import load_image_set
from primia.errors import ConfigError, FederationError, PrimiaError, ProtocolError
from primia.federation.aggregate import aggregate
from primia.federation.plan import read_plan
from primia.federation.summed_gradients import check_gradients, gradient_change, gradient_layout
from primia.federation.weights import head_vector, joined_by_name
from primia.federation.work import LocalWork
from primia.models.networks import build_network
from primia.privacy.accounting import epsilon_of
from primia.privacy.discrete_gaussian import DEVIATION
from primia.privacy.noise import SystemNoise

SPLITS = ("train", "validation")


class NoNoise:
    """Everybody is drawn and nothing is added: only to see what the noise is added to."""

    def uniform(self, n):
        return torch.zeros(n, dtype=torch.float64)

    def normal(self, shape):
        raise AssertionError("distributed noise is discrete")

    def discrete(self, n):
        return np.zeros(n, dtype=np.int64)


@pytest.fixture
def params(params_with):
    def changed(**changes):
        private = {"privacy__enabled": True, "privacy__trust": "distributed", "privacy__delta": 1e-3}
        return params_with(**{**private, **changes})

    return changed


@pytest.fixture
def plan(plan_with, params):
    private = params()
    return plan_with(
        privacy=calibrated(private.privacy, private.federation.rounds),
        privacy__enabled=True,
        privacy__trust="distributed",
    )


def gradients(parameters=500, norm=1.0):
    random = np.random.default_rng(1)
    exact = random.standard_normal((3, parameters))
    return exact * norm / np.linalg.norm(exact, axis=1, keepdims=True)


def test_the_sum_without_noise_is_that_of_the_gradients_up_to_half_a_step_a_site(plan):
    exact = gradients(norm=12.0)
    share = plan.noise_share(500)
    total = sum(share.words(site, noise=NoNoise()).astype(np.uint64) for site in exact).astype(np.uint32)
    change = gradient_change(plan, gradient_layout(500).unpack(total), sites=3, round=1)
    expected = -plan.privacy.learning_rate * exact.sum(axis=0) / (plan.privacy.expected_batch * 3)
    np.testing.assert_allclose(change, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.01


def test_a_sum_that_passes_zero_or_the_word_is_read_as_signed(plan):
    share = plan.noise_share(2)
    words = [share.words(np.array([-1000.0, 1000.0]) * share.grid, noise=NoNoise()) for _ in range(3)]
    total = sum(word.astype(np.uint64) for word in words).astype(np.uint32)
    assert gradient_layout(2).unpack(total)["gradient"].tolist() == [-3000, 3000]


def test_the_noise_actually_summed_is_that_of_the_accountant(plan):
    share = plan.noise_share(20_000)
    zero = np.zeros(20_000)
    drawn = [share.words(zero, noise=SystemNoise()).view(np.int32).astype(np.int64) for _ in range(3)]
    # Two honest hospitals stay if one is curious: their noise over the sensitivity is what was accounted.
    honest = np.std(drawn[0] + drawn[1])
    sensitivity = share.clip_steps + np.sqrt(20_000)
    # 20,000 values: the deviation's own deviation is 0.5 %.
    assert honest / sensitivity == pytest.approx(plan.privacy.noise_multiplier, rel=0.04)
    assert np.std(sum(drawn)) / share.clip_steps == pytest.approx(share.total_noise_multiplier, rel=0.04)
    assert share.total_noise_multiplier / plan.privacy.noise_multiplier == pytest.approx(np.sqrt(3 / 2), rel=0.01)
    assert np.std(drawn[0]) == pytest.approx(DEVIATION, rel=0.04)


def test_a_hospital_sends_its_sum_with_noise_and_nothing_else(params, site_folders, tmp_path):
    joined = Joined(params(), InProcessChannel(make_sites(site_folders, tmp_path)), tmp_path)
    request = joined.train()
    size = len(joined.model())
    one, other = (
        aggregate(
            joined.channel,
            request.model_copy(update={"session": request.session.model_copy(update={"attempt": attempt})}),
            plan=joined.plan,
            sites=NAMES,
            size=size,
            deadline_s=60,
        ).total
        for attempt in (1, 2)
    )
    assert len(one) == size and (one != other).mean() > 0.99  # fresh noise each time
    values = one.view(np.int32)
    assert 2 * DEVIATION < np.abs(values).max() < 60 * DEVIATION


def test_a_run_spends_its_target_by_the_discrete_accountant_and_says_so(params, site_folders, tmp_path):
    result, _ = federated(params(federation__rounds=2), site_folders, tmp_path)
    privacy = result.plan.privacy
    assert result.stopped is None and [record.clipped_fraction for record in result.records] == [0.0, 0.0]
    spent = epsilon_of([privacy.release("statistics"), *[privacy.release("train")] * 2], delta=privacy.delta)
    assert privacy.release("train").discrete
    for report in result.ledgers.values():
        assert report.epsilon == pytest.approx(max(spent, report.epsilon))
        assert 0.97 * 8.0 <= report.epsilon <= 8.0 + 1e-3


def test_a_hospitals_gradient_is_the_sum_over_the_patients_drawn(plan, site_folders):
    train, validation = (load_image_set(site_folders / "hill" / f"{split}.safetensors") for split in SPLITS)
    generous = plan.model_copy(
        update={"privacy": plan.privacy.model_copy(update={"clip_norm": 1e6, "sampling_rate": 1.0})}
    )
    work = LocalWork(generous, name="hill", train=train, validation=validation)
    head = build_network("convnet", classes=3, pixels=16, seed=1).head
    gradient = work.gradient(head_vector(head), mean=0.4, std=0.3, noise=NoNoise())
    firsts = [int((train.patients == patient).nonzero()[0]) for patient in train.patients.unique()]
    assert len(firsts) < len(train)  # some patients have more than one image
    loss = torch.nn.functional.cross_entropy(
        head((train.images[firsts].float() - 0.4) / 0.3), train.labels[firsts], reduction="sum"
    )
    loss.backward()
    expected = joined_by_name({name: weight.grad for name, weight in head.named_parameters()})
    np.testing.assert_allclose(gradient, expected, atol=1e-4 * np.abs(expected).max())


def test_gradients_whose_masks_did_not_cancel_are_not_believed():
    garbage = np.random.default_rng(1).integers(0, 2**32, size=200, dtype=np.uint32)
    with pytest.raises(FederationError, match="outside what it can be"):
        check_gradients(gradient_layout(200).unpack(garbage))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"privacy__local_steps": 2}, "privacy.local_steps is 2"),
        ({"training__proximal": 0.1}, "training.proximal is 0.1"),
        ({"training__local_normalisation": True}, "training.local_normalisation is true"),
        ({"secure_aggregation__scheme": "none"}, "secure_aggregation.scheme is none"),
    ],
)
def test_what_does_not_go_with_it_is_refused(params, changes, key):
    with pytest.raises(ConfigError, match=key):
        params(**changes)


def test_no_plan_is_made_if_nobody_would_be_honest(plan_with, params):
    private = params(privacy__curious=3)
    privacy = calibrated(private.privacy, private.federation.rounds)
    with pytest.raises(ValueError, match="an honest hospital in every sum"):
        plan_with(privacy=privacy, privacy__enabled=True, privacy__trust="distributed", privacy__curious=3)


@pytest.mark.parametrize(
    "change",
    [
        {"secure_aggregation": {"scheme": "none"}},
        {"privacy": {"local_steps": 2}},
        {"privacy": {"validation_noise": 2.1e6}},
        {"training": {"proximal": 0.5}},
    ],
)
def test_a_hospital_reads_no_plan_whose_noise_would_not_be_what_is_accounted(plan, change):
    told = json.loads(plan.canonical())
    for section, values in change.items():
        told[section].update(values)
    with pytest.raises(ProtocolError, match="wrong or missing field"):
        read_plan(json.dumps(told, sort_keys=True, separators=(",", ":")).encode())
    assert read_plan(plan.canonical()) == plan


def test_a_plan_whose_sum_may_not_fit_is_refused_before_anything_is_charged(params, site_folders, tmp_path):
    crowded = params(privacy__site_population=900_000_000, privacy__delta=1e-12)
    with pytest.raises(PrimiaError, match=r"needs \d+ bits and has 32"):
        federated(crowded, site_folders, tmp_path)
    assert not list((tmp_path / "ledgers").glob("*.jsonl"))
