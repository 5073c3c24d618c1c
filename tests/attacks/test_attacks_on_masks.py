"""Attacks on networks that mark structures, whose updates are of an image and its mask."""

import dataclasses
import functools
from pathlib import Path

import pytest
import yaml
from scenes import DECLARED, SMALL, one_each, report_of, scene_of

from primia.attacks.budget import BUDGETS
from primia.attacks.campaign import attacks_on
from primia.attacks.contract import Verdict
from primia.attacks.inversion import GradientInversion
from primia.attacks.membership_by_heart import blocks_by_heart
from primia.attacks.retrieval import GradientRetrieval
from primia.attacks.views import deal_candidates
from primia.config import Attack, Training, Volume
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


def test_volumes_and_their_masks_are_attacked_as_images_are(tmp_path):
    flat, depth = marked().subset(marked().patients < 24), 8
    volumes, masks = (each[..., None].repeat_interleave(depth, dim=-1) for each in (flat.images, flat.labels))
    model = dataclasses.replace(
        marker(),
        network=build_network("jet", classes=2, pixels=PIXELS, depth=depth, seed=1),
        volume=Volume(spacing=(1.0, 1.0, 3.0), depth=depth),
    )
    budget = dataclasses.replace(SMALL, retrieval_trials=10, inversion_patients=2, inversion_steps=2)
    scene = marked_scene(model=model, candidates=one_each(volumes, masks, CLASSES), budget=budget)
    retrieval = report_of(GradientRetrieval("released"), scene, tmp_path)
    assert retrieval.outcome.positive.rate == 1.0 and retrieval.verdict is not Verdict.FAIL
    inversion = report_of(GradientInversion("released"), scene, tmp_path)
    assert inversion.outcome.facts["patients"] == 2
    assert {picture.shape for picture in inversion.outcome.pictures.values()} == {(PIXELS, PIXELS)}


PROFILES = {"hippocampus": 52, "hippocampus_private": 52, "liver": 26, "liver_volumes": 26}


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("budget", BUDGETS.values(), ids=list(BUDGETS))
def test_the_test_patients_of_the_profiles_are_enough_for_every_attack_at_every_budget(name, budget):
    profile = yaml.safe_load((Path(__file__).parents[2] / "profiles" / f"{name}.yaml").read_text())
    settings = Attack(budget=budget.name, **profile["attack"])
    images, masks = masked_phantoms(patients=PROFILES[name], pixels=PIXELS, hospitals=("one",), seed=4)
    few = one_each(images, masks, CLASSES)
    assert len(few.patient_ids) == PROFILES[name]
    declared = None if profile["privacy"].get("enabled") is False else DECLARED
    scene = marked_scene(candidates=few, budget=budget, settings=settings, declared=declared)
    for attack in attacks_on(scene):
        assert attack.parts(scene) > 0
    assert [len(block) for block in blocks_by_heart(scene)] == [budget.references + 1] * len(blocks_by_heart(scene))
    deal_candidates(scene, scene.released)
