import numpy as np
import pytest
import torch
from describing import described
from federating import image_set

from primia.errors import DataError
from primia.federation.drafting import draft_plan
from primia.federation.local_normalisation import LocalNormalisation, normalisation_weights
from primia.federation.plan import PrivacyPlan
from primia.federation.weights import head_vector, load_head
from primia.federation.work import LocalWork
from primia.models.networks import build_network
from primia.secagg.quantise import within_norm
from primia.training.objective import learning_rate_of
from primia.training.private import clipped_gradient_sum, draw_patients, train_private

NETWORK = {"classes": 3, "pixels": 16, "seed": 1}
PRIVACY = PrivacyPlan(
    trust="local",
    curious=1,
    target_epsilon=8.0,
    delta=1e-3,
    clip_norm=1.0,
    noise_multiplier=0.1,
    sampling_rate=0.5,
    site_population=20,
    expected_batch=10.0,
    views=1,
    local_steps=6,
    learning_rate=0.5,
    statistics_noise=20.0,
    validation_noise=3.0,
)


class SeededNoise:
    """It repeats itself: for tests only, it protects nobody."""

    def __init__(self, seed):
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, shape):
        return torch.randn(tuple(shape), generator=self._generator)

    def uniform(self, n):
        return torch.rand(n, generator=self._generator, dtype=torch.float64)


def start():
    return head_vector(build_network("convnet", **NETWORK).head)


@pytest.fixture
def plan_with(params_with):
    def plan(**changes):
        params = params_with(**changes)
        return draft_plan(params, described(params), privacy=PRIVACY if params.privacy.enabled else None)

    return plan


def site(plan, *, state=None):
    return LocalWork(
        plan,
        name="north",
        train=image_set(patients=20, seed=0),
        validation=image_set(patients=9, seed=100),
        state=state,
    )


def trained(work, model=None, *, round=1, seed=0, **arguments):
    model = start() if model is None else model
    return work.train(model, mean=0.3, std=0.2, round=round, noise=SeededNoise(seed), **arguments)


def test_the_result_is_the_change_and_the_mean_training_loss(plan_with):
    result = trained(site(plan_with(training__local_epochs=3)))
    head, images = build_network("convnet", **NETWORK).head, image_set(patients=20, seed=0)
    load_head(head, (start() + result.delta).astype(np.float32))
    with torch.no_grad():
        logits = head((images.images.float() - 0.3) / 0.2)
    after = torch.nn.functional.cross_entropy(logits, images.labels).item()
    assert result.delta.dtype == np.float64
    assert 0 < after < result.loss < 1.2
    assert not result.shrunk


def test_a_restarted_site_trains_to_the_same_bits(plan_with):
    plan = plan_with(training__mixup=0.3, training__proximal=0.1, training__local_steps=3)
    first, second = trained(site(plan)), trained(site(plan))
    np.testing.assert_array_equal(first.delta, second.delta)
    assert first.loss == second.loss
    assert not np.array_equal(trained(site(plan), round=2).delta, first.delta)


def test_private_training_is_asked_for_exactly_what_the_plan_accounts_for(plan_with, monkeypatch):
    asked = {}

    def recorded(head, **arguments):
        asked.update(arguments)
        return train_private(head, **arguments)

    monkeypatch.setattr("primia.federation.work.train_private", recorded)
    plan, images, noise = plan_with(privacy__enabled=True), image_set(patients=20, seed=0), SeededNoise(0)
    site(plan).train(start(), mean=0.3, std=0.2, round=1, noise=noise)
    for name in ("clip_norm", "noise_multiplier", "sampling_rate", "expected_batch", "views", "learning_rate"):
        assert asked[name] == getattr(plan.privacy, name), name
    assert asked["steps"] == plan.privacy.local_steps and asked["noise"] is noise
    assert torch.equal(asked["patients"], images.patients) and torch.equal(asked["labels"], images.labels)
    assert len(asked["inputs"]) == len(images) and asked["proximal"] == 0.0


def test_a_share_of_the_sum_is_of_patients_clipped_and_drawn_as_the_plan_accounts_for(plan_with, monkeypatch):
    asked, drawn = {}, {}

    def summed(head, **arguments):
        asked.update(arguments)
        return clipped_gradient_sum(head, **arguments)

    def drawing(index, **arguments):
        drawn.update(arguments, patients=len(index.count))
        return draw_patients(index, **arguments)

    monkeypatch.setattr("primia.federation.work.clipped_gradient_sum", summed)
    monkeypatch.setattr("primia.federation.work.draw_patients", drawing)
    plan = plan_with(privacy__enabled=True)
    site(plan).gradient(start(), mean=0.3, std=0.2, noise=SeededNoise(0))
    assert (asked["clip_norm"], drawn["sampling_rate"]) == (plan.privacy.clip_norm, plan.privacy.sampling_rate)
    assert (drawn["views"], drawn["patients"]) == (plan.privacy.views, 20)
    assert asked["patients_drawn"].shape[1] == plan.privacy.views


def test_local_steps_take_the_place_of_epochs(plan_with):
    # 40 images in batches of 8: five steps make an epoch.
    by_steps, by_epochs = plan_with(training__local_steps=10), plan_with(training__local_epochs=2)
    np.testing.assert_array_equal(trained(site(by_steps)).delta, trained(site(by_epochs)).delta)


def test_the_learning_rate_follows_the_schedule_of_the_rounds(plan_with):
    cosine = plan_with(training__schedule="cosine", training__learning_rate=0.05)
    slower = learning_rate_of(0.05, "cosine", round=2, rounds=3)
    constant = plan_with(training__learning_rate=slower)
    np.testing.assert_array_equal(trained(site(cosine), round=2).delta, trained(site(constant), round=2).delta)
    assert slower < 0.05


@pytest.mark.parametrize("private", [False, True])
def test_a_strong_proximal_term_keeps_the_model_near(plan_with, private):
    free, held = (
        trained(site(plan_with(training__proximal=mu, privacy__enabled=private, secure_aggregation__norm_bound=1e6)))
        for mu in (0.0, 1.5)
    )
    assert np.linalg.norm(held.delta) < 0.9 * np.linalg.norm(free.delta)


def test_class_weights_reach_the_loss(plan_with):
    work = site(plan_with(training__class_weights=True))
    even, skewed = trained(work, class_weights=(1.0, 1.0, 1.0)), trained(work, class_weights=(3.0, 0.1, 0.1))
    assert not np.array_equal(even.delta, skewed.delta)
    assert even.loss != skewed.loss


def test_no_loss_leaves_a_private_training(plan_with):
    result = trained(site(plan_with(privacy__enabled=True)))
    assert result.loss == 0.0
    assert np.linalg.norm(result.delta) > 0


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_private_training_computes_in_the_precision_that_is_asked_for(plan_with, trust):
    def change(precision):
        work = site(plan_with(privacy__enabled=True, training__precision=precision))
        if trust == "distributed":
            return work.gradient(start(), mean=0.4, std=0.3, noise=SeededNoise(1))
        return trained(work, seed=1).delta

    exact, rounded = change("float32"), change("bfloat16")
    np.testing.assert_array_equal(exact, change("float32"))
    assert 1e-4 < np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.1


def test_a_change_beyond_the_norm_bound_is_scaled_down_to_it(plan_with):
    free = trained(site(plan_with()))
    bound = 0.5 * np.linalg.norm(free.delta)
    held = trained(site(plan_with(secure_aggregation__norm_bound=float(bound))))
    assert (free.shrunk, held.shrunk) == (False, True)
    assert 0.999999 * bound < np.linalg.norm(held.delta) <= bound
    np.testing.assert_allclose(held.delta, 0.5 * free.delta, rtol=1e-9)


def test_the_norm_bound_leaves_what_is_no_number_to_the_quantiser():
    for value in (np.nan, np.inf):
        delta, _ = within_norm(np.array([1.0, value]), bound=10.0)
        assert not np.isfinite(delta).all()


def test_the_normalisation_weights_of_a_network_are_those_of_its_group_norms():
    head = build_network("convnet", **NETWORK).head
    with torch.no_grad():
        for weight in head.parameters():
            weight.zero_()
        for module in head.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.fill_(1.0)
                module.bias.fill_(1.0)
    np.testing.assert_array_equal(head_vector(head) == 1.0, normalisation_weights(head))
    assert normalisation_weights(head).sum() == 2 * (16 + 32 + 48 + 64)


@pytest.fixture
def own(plan_with):
    """A plan with local normalisation, and which weights it keeps."""
    plan = plan_with(training__local_normalisation=True)
    return plan, normalisation_weights(build_network("convnet", **NETWORK).head)


def test_a_site_goes_on_from_its_own_normalisation_layers_and_sends_their_distance(own, tmp_path):
    plan, kept = own
    work = site(plan, state=tmp_path)
    first = trained(work, round=1)
    ours = (start() + first.delta).astype(np.float32)[kept]
    second_model = (start() + 0.5 * first.delta).astype(np.float32)
    second = trained(work, second_model, round=2)
    # The same round written out: the global model, with the site's own layers put in.
    mixed = second_model.copy()
    mixed[kept] = ours
    plain = plan.training.model_copy(update={"local_normalisation": False})
    without = site(plan.model_copy(update={"training": plain}))
    expected = mixed + trained(without, mixed, round=2).delta
    np.testing.assert_allclose(second_model + second.delta, expected, atol=1e-12)
    assert np.abs(second.delta[kept]).max() > 0


def test_the_first_round_begins_at_the_global_normalisation_layers(own, plan_with, tmp_path):
    np.testing.assert_array_equal(trained(site(own[0], state=tmp_path)).delta, trained(site(plan_with())).delta)


def test_own_layers_survive_a_restart_and_every_repetition_of_a_round_is_the_same(own, tmp_path):
    plan, _ = own
    lasting = site(plan)  # in memory
    expected = [trained(lasting, round=round).delta for round in (1, 2, 3)]
    for round in (1, 1, 2, 2, 3):
        restarted = site(plan, state=tmp_path)
        np.testing.assert_array_equal(trained(restarted, round=round).delta, expected[round - 1])
        np.testing.assert_array_equal(trained(restarted, round=round).delta, expected[round - 1])
    assert not np.array_equal(expected[0], expected[1])


def test_a_site_that_missed_a_round_goes_on_from_its_latest(tmp_path):
    layers = LocalNormalisation(tmp_path / "own.safetensors")
    first, third, repeated = (np.full(4, value, dtype=np.float32) for value in (1.0, 3.0, 3.5))
    assert layers.before(1) is None
    layers.keep(1, first)
    np.testing.assert_array_equal(layers.before(3), first)
    layers.keep(3, third)
    layers = LocalNormalisation(tmp_path / "own.safetensors")
    np.testing.assert_array_equal(layers.before(3), first)
    layers.keep(3, repeated)
    np.testing.assert_array_equal(LocalNormalisation(tmp_path / "own.safetensors").before(4), repeated)


def test_each_run_has_its_own_layers(own, tmp_path):
    plan, _ = own
    first = trained(site(plan, state=tmp_path), round=1)
    other = plan.model_copy(update={"run": "another-run"})
    np.testing.assert_array_equal(trained(site(other, state=tmp_path), round=1).delta, first.delta)
    files = sorted((tmp_path / "normalisation").iterdir())
    assert [file.name for file in files] == [f"{run}.safetensors" for run in sorted((plan.run, other.run))]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_damaged_file_of_own_layers_is_named(own, tmp_path):
    plan, _ = own
    trained(site(plan, state=tmp_path))
    file = tmp_path / "normalisation" / f"{plan.run}.safetensors"
    file.write_bytes(b"broken")
    with pytest.raises(DataError, match=rf"{file.name} is damaged; remove it"):
        site(plan, state=tmp_path)


def test_a_private_site_keeps_its_own_layers_too(plan_with, tmp_path):
    plan = plan_with(training__local_normalisation=True, privacy__enabled=True)
    trained(site(plan, state=tmp_path), round=1)
    second = trained(site(plan, state=tmp_path), round=2, seed=2)
    np.testing.assert_array_equal(trained(site(plan, state=tmp_path), round=2, seed=2).delta, second.delta)
    assert not np.array_equal(trained(site(plan), round=2, seed=2).delta, second.delta), "without the first round"


def test_validation_is_of_the_global_model(own, tmp_path):
    plan, _ = own
    work = site(plan, state=tmp_path)
    before = work.validate(start(), mean=0.3, std=0.2)
    trained(work)
    assert torch.equal(work.validate(start(), mean=0.3, std=0.2), before)
