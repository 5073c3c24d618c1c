"""Attacks on networks that mark structures, whose updates are of an image and its mask."""

import dataclasses
import functools

import pytest
from scenes import DECLARED, SMALL, one_each, report_of, scene_of

from primia.attacks.contract import Verdict
from primia.attacks.inversion import GradientInversion
from primia.attacks.retrieval import GradientRetrieval
from primia.config import Training
from primia.data.phantom_set import masked_phantoms
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.training.plain import train_plain

PIXELS, PATIENTS = 32, 48
CLASSES = ("background", "lungs")
TRAINING = Training(learning_rate=0.5, augment=False, loss="dice_cross_entropy")


@functools.cache
def marked():
    images, masks = masked_phantoms(patients=PATIENTS, pixels=PIXELS, hospitals=("one",), seed=4)
    return one_each(images, masks, CLASSES)


@functools.cache
def marker():
    """A network that has learned where lungs are."""
    network = build_network("jet", classes=2, pixels=PIXELS, seed=1)
    images, masks = masked_phantoms(patients=60, pixels=PIXELS, hospitals=("one",), seed=5)
    train_plain(
        network.head,
        inputs=network.front((images.float() - 0.5) / 0.29).float(),
        labels=masks,
        epochs=20,
        batch_size=20,
        learning_rate=0.5,
        weight_decay=0.0,
        augment=False,
        precision="float32",
        seed=1,
        loss="dice_cross_entropy",
    )
    return ReleasedModel(
        network=network, architecture="jet", classes=CLASSES, pixels=PIXELS, mean=0.5, std=0.29, round=1
    )


def marked_scene(**changes):
    return scene_of(**({"model": marker(), "candidates": marked(), "training": TRAINING, "budget": SMALL} | changes))


def test_an_update_of_nobody_points_to_nobody_though_the_network_knows_where_lungs_are(tmp_path):
    few = dataclasses.replace(SMALL, inversion_patients=20, inversion_steps=80, inversion_variations=(0.3,))
    report = report_of(GradientInversion("released"), marked_scene(budget=few), tmp_path)
    outcome = report.outcome
    # One or two by luck. An attacker who was told the masks would find seven, whatever the update.
    assert outcome.negative.total == 20 and outcome.negative.successes <= 4
    assert report.verdict is not Verdict.FAIL


@pytest.mark.parametrize("declared", [DECLARED, None])
def test_only_undefended_updates_of_an_image_and_its_mask_name_the_patient(tmp_path, declared):
    report = report_of(GradientRetrieval("released"), marked_scene(declared=declared), tmp_path)
    assert report.outcome.positive.rate == 1.0
    assert (report.verdict is Verdict.FAIL) is (declared is None)
