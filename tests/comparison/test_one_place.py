import numpy as np
import pytest
import torch
from federating import image_set

from primia.comparison.arms import arms_of
from primia.comparison.one_place import pooled, train_in_one_place
from primia.evaluation.metrics import mcc
from primia.federation.weights import head_vector
from primia.models.networks import build_network

TRAIN, VALIDATION = image_set(patients=24, seed=1), image_set(patients=12, seed=2)


@pytest.fixture
def trained(params_with):
    def train(name="north", *, train=TRAIN, on_round=lambda _: None, **changes):
        params = params_with(**changes)
        arm = next(arm for arm in arms_of(params) if arm.name in (name, f"alone: {name}"))
        return train_in_one_place(
            arm.params(params, seed=1), name=name, train=train, validation=VALIDATION, on_round=on_round
        )

    return train


def weights(model):
    return head_vector(model.network.head)


def test_training_in_one_place_learns_and_tells_each_round(trained):
    finished = []
    model = trained(federation__rounds=4, on_round=finished.append)
    assert finished == [1, 2, 3, 4]
    test = image_set(patients=30, seed=3)
    assert mcc(model.probabilities(test.images).numpy(), test.labels.numpy()) > 0.5


def test_the_same_arguments_give_the_same_weights(trained):
    assert (weights(trained()) == weights(trained())).all()


def test_images_are_standardised_by_the_place_they_lie_in(trained):
    model = trained(federation__rounds=1)
    pixels = TRAIN.images.double()
    assert model.mean == pytest.approx(float(pixels.mean()), abs=1e-4)
    assert model.std == pytest.approx(float(pixels.std()), abs=1e-3)


def test_the_released_round_is_the_one_with_the_best_validation(trained):
    """After so many rounds a shorter training ends where the longer one was when it was best."""
    model = trained(federation__rounds=6, training__learning_rate=0.2)
    assert 1 <= model.round <= 6
    shorter = trained(federation__rounds=model.round, training__learning_rate=0.2)
    assert shorter.round == model.round
    assert (weights(shorter) == weights(model)).all()


def test_the_average_of_models_is_that_of_the_federation(trained):
    """Two rounds: half of the first model and half of the second, whichever of the two averages is released."""
    models, start = {}, head_vector(build_network("convnet", classes=3, pixels=16, seed=1).head)
    for average in (0.0, 0.5):
        models[average] = trained(federation__rounds=1, federation__average=average)
    # The average begins at the first trained model, not at the random one.
    assert (weights(models[0.0]) == weights(models[0.5])).all()
    assert (weights(models[0.0]) != start).any()


def test_training_stops_when_the_validation_stopped_improving(trained):
    # With a rate this small no answer changes: the first round stays the best.
    for release, round in (("best", 1), ("last", 3)):
        finished = []
        model = trained(
            federation__rounds=9,
            federation__patience=2,
            federation__release=release,
            training__learning_rate=1e-12,
            on_round=finished.append,
        )
        assert (model.round, finished) == (round, [1, 2, 3])


def test_a_large_change_is_neither_scaled_down_nor_clipped(trained):
    model = trained(
        federation__rounds=1,
        training__learning_rate=0.5,
        secure_aggregation__norm_bound=1e-3,
        secure_aggregation__clip_range=1e-3,
    )
    start = head_vector(build_network("convnet", classes=3, pixels=16, seed=1).head)
    change = weights(model) - start
    assert np.linalg.norm(change) > 0.1 and np.abs(change).max() > 0.01


def test_classes_can_be_weighed(trained):
    assert (weights(trained(training__class_weights=True)) != weights(trained())).any()


def test_pooled_images_keep_order_and_patients_apart():
    one, other = image_set(patients=3, seed=1), image_set(patients=2, seed=2)
    both = pooled([one, other])
    assert torch.equal(both.images, torch.cat([one.images, other.images]))
    assert both.patients.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert [both.patient_ids[i] for i in both.patients.tolist()] == [
        images.patient_ids[i] for images in (one, other) for i in images.patients.tolist()
    ]
    assert both.labels.tolist() == one.labels.tolist() + other.labels.tolist()
