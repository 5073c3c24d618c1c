import json

import pytest
from describing import described

from primia.errors import ProtocolError
from primia.federation.budget import epsilon_so_far
from primia.federation.drafting import draft_plan, privacy_plan
from primia.federation.plan import PrivacyPlan, StudentPlan, read_plan
from primia.privacy.accounting import epsilon_of


@pytest.fixture
def plan(params_with):
    return draft_plan(params_with(), described(params_with()), privacy=None)


def test_a_plan_survives_the_wire(plan):
    assert read_plan(plan.canonical()) == plan
    assert read_plan(plan.canonical()).digest() == plan.digest()


def test_every_field_changes_the_digest(plan, params_with):
    changes = {
        "run": "another-run",
        "rounds": 9,
        "average": 0.5,
        "threshold": 2,
        "server": params_with().federation.server.model_copy(update={"learning_rate": 0.5}),
        "patience": 3,
        "rollback_margin": 0.1,
        "synthetic": False,
        "model": params_with(model__seed=2).model,
        "pixels": 32,
        "classes": ("a", "b"),
        "training": params_with(training__seed=9).training,
        "secure_aggregation": params_with(secure_aggregation__bits=19).secure_aggregation,
        "hospitals": dict(list(plan.hospitals.items())[:2]),
        "student": StudentPlan(
            pixels=16,
            start="0" * 64,
            mean=0.4,
            std=0.2,
            teacher="1" * 64,
            teacher_mean=0.4,
            teacher_std=0.2,
            spread=1.0,
        ),
    }
    digests = {plan.model_copy(update={field: value}).digest() for field, value in changes.items()}
    assert len(digests | {plan.digest()}) == len(changes) + 1


def test_only_the_name_of_the_run_leaves_the_fingerprint_alone(plan):
    assert plan.model_copy(update={"run": "another-run"}).fingerprint() == plan.fingerprint()
    assert plan.model_copy(update={"rounds": 9}).fingerprint() != plan.fingerprint()


def test_a_plan_in_another_form_is_refused(plan):
    fields = json.loads(plan.canonical())
    with pytest.raises(ProtocolError, match="canonical"):
        read_plan(json.dumps(fields).encode())
    for change in ({"code": "x"}, {"rounds": 0}, {"rounds": "3"}, {"weights": "equal"}, {"run": "../x"}):
        with pytest.raises(ProtocolError):
            read_plan(json.dumps({**fields, **change}, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(ProtocolError):
        read_plan(b"{")


def test_private_weights_are_equal_and_public(params_with):
    params = params_with(privacy__enabled=True)
    privacy = PrivacyPlan(
        trust="local",
        curious=1,
        target_epsilon=8.0,
        delta=1e-3,
        clip_norm=1.0,
        noise_multiplier=1.0,
        sampling_rate=0.25,
        site_population=20,
        expected_batch=5.0,
        views=1,
        local_steps=1,
        learning_rate=1.0,
        statistics_noise=20.0,
        validation_noise=3.0,
    )
    plan = draft_plan(params, described(params), privacy=privacy)
    assert plan.weights == "equal"
    assert read_plan(plan.canonical()) == plan


def test_the_curve_of_epsilon_rises_to_what_the_plan_spends(params_with):
    params = params_with(privacy__enabled=True, privacy__sampling_rate=0.25, federation__rounds=4)
    plan = draft_plan(params, described(params), privacy=privacy_plan(params))
    curve = [epsilon_so_far(plan, rounds=rounds) for rounds in (1, 2, 3, 4)]
    assert curve == sorted(set(curve))
    spent = [plan.privacy.release("statistics"), *[plan.privacy.release("train")] * 4]
    assert curve[-1] == pytest.approx(epsilon_of(spent, delta=1e-3), rel=0.01)
    assert epsilon_so_far(draft_plan(params, described(params), privacy=None), rounds=4) == 0.0
