from pathlib import Path

import pytest

from primia.comparison.arms import arms_of, differences_of
from primia.config import load_params

ROOT = Path(__file__).parents[2]
ALONE = ["alone: north", "alone: river", "alone: hill"]


@pytest.fixture(scope="module")
def shipped():
    return load_params(ROOT / "params.yaml")


def changed(params, **sections):
    return params.model_copy(
        update={name: getattr(params, name).model_copy(update=values) for name, values in sections.items()}
    )


def names(params):
    return [arm.name for arm in arms_of(params)]


def test_without_differential_privacy_there_are_four_kinds_of_arms(shipped):
    params = changed(shipped, privacy={"enabled": False})
    assert names(params) == ["centralised", *ALONE, "federated_clear", "federated"]


def test_with_differential_privacy_the_federation_is_also_trained_without(shipped):
    assert names(shipped) == ["centralised", *ALONE, "federated_clear", "federated_without_privacy", "federated"]


def test_a_federation_in_clear_is_not_compared_with_itself(shipped):
    params = changed(shipped, privacy={"enabled": False}, secure_aggregation={"scheme": "none"})
    assert names(params) == ["centralised", *ALONE, "federated"]
    assert [question.name for question in differences_of(arms_of(params))] == [
        "federated_minus_centralised",
        "federated_minus_alone",
    ]


def test_only_the_configured_federation_is_private_and_only_masked_arms_are_masked(shipped):
    for arm in arms_of(shipped):
        params = arm.params(shipped, seed=3)
        assert params.privacy.enabled == (arm.name == "federated")
        assert (params.secure_aggregation.scheme == "masking") == (
            arm.name in ("federated", "federated_without_privacy")
        )


def test_every_arm_takes_the_seed_of_the_comparison(shipped):
    for arm in arms_of(shipped):
        params = arm.params(shipped, seed=12)
        assert (params.training.seed, params.model.seed) == (12, 12)


def test_the_configured_federation_is_otherwise_what_params_say(shipped):
    (*_, federated) = arms_of(shipped)
    again = federated.params(shipped, seed=shipped.training.seed)
    assert again == changed(shipped, model={"seed": shipped.training.seed})


def test_in_one_place_as_many_batches_are_trained_as_at_all_hospitals_together(shipped):
    params = changed(shipped, training={"local_steps": 5, "proximal": 0.1})
    by_name = {arm.name: arm.params(params, seed=1).training for arm in arms_of(params)}
    assert by_name["centralised"].local_steps == 15
    assert by_name["alone: river"].local_steps == by_name["federated_clear"].local_steps == 5
    assert by_name["centralised"].proximal == by_name["alone: river"].proximal == 0.0
    assert by_name["federated_clear"].proximal == 0.1


def test_where_all_images_lie_in_one_place_no_change_is_scaled_down(shipped):
    bounds = {arm.name: arm.params(shipped, seed=1).secure_aggregation.norm_bound for arm in arms_of(shipped)}
    assert bounds["federated"] == shipped.secure_aggregation.norm_bound
    assert bounds["centralised"] > 1e20


@pytest.mark.parametrize("private", [True, False])
def test_every_difference_is_between_arms_there_are_and_says_what_it_shows(shipped, private):
    params = changed(shipped, privacy={"enabled": private})
    there = {*names(params), "alone"}
    questions = differences_of(arms_of(params))
    assert {question.name for question in questions} >= {
        "federated_minus_centralised",
        "federated_minus_alone",
        "federated_minus_federated_clear",
    }
    assert all({question.arm, question.minus} <= there and question.shows for question in questions)
    privacy = "federated_minus_federated_without_privacy"
    assert (privacy in {question.name for question in questions}) == private
