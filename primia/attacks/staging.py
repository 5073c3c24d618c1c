"""Setting the scene of the attacks on a trained model, from its files and parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from primia.attacks.budget import BUDGETS
from primia.attacks.scene import Declared, Membership, Scene
from primia.attacks.shared_noise import HonestHospitals
from primia.config import Params
from primia.data.image_set import ImageSet, load_image_set
from primia.models.released import ReleasedModel
from primia.secagg.threshold import threshold
from primia.training.pretrain import initial_network

# What is published of patients whom no privacy budget covers when their membership in the released model is asked for.
UNCOVERED = "figures on the training and validation patients in the stage attack (membership)"


def set_scene(
    params: Params, privacy: Mapping[str, Any], released: ReleasedModel, *, candidates: ImageSet, sites: Path
) -> Scene:
    """The scene of a federation's model.

    Args:
        params: all of params.yaml.
        privacy: privacy.json of the federation: the noise that was really drawn, not what params.yaml asks for.
        released: the model to be judged.
        candidates: consented patients nobody was trained on.
        sites: holds one folder per hospital; read only with `attack.membership: released`.

    Raises:
        DataError: an image set is missing.
    """
    network = initial_network(
        params.model, params.training, classes=params.ingest.classes, pixels=params.preprocess.pixels
    )
    scene = Scene(
        first=replace(released, network=network, round=0),
        released=released,
        candidates=candidates,
        declared=None,
        training=params.training,
        budget=BUDGETS[params.attack.budget],
        settings=params.attack,
        aggregation=params.secure_aggregation,
        membership=_membership(params, sites) if params.attack.membership == "released" else None,
    )
    if not privacy["enabled"]:
        return scene
    parameters = sum(weight.numel() for weight in network.head.parameters())
    declared = _declared(params, privacy)
    if not declared.discrete:
        return replace(scene, declared=declared)
    hospitals = len(params.preprocess.hospitals)
    honest = HonestHospitals(hospitals, threshold(hospitals), params.privacy.curious)
    share = honest.share(
        clip_norm=declared.clip_norm, noise_multiplier=declared.noise_multiplier, parameters=parameters
    )
    return replace(
        scene,
        declared=replace(declared, noise_seen=honest.deviation(share)),
        step=honest.step,
        trainer=honest.train,
    )


def uncovered(scene: Scene) -> list[str]:
    """What the attacks publish outside any privacy budget."""
    return [] if scene.membership is None else [UNCOVERED]


def _declared(params: Params, privacy: Mapping[str, Any]) -> Declared:
    sigma, settings = float(privacy["noise_multiplier"]), params.privacy
    return Declared(
        clip_norm=float(privacy["clip_norm"]),
        noise_multiplier=sigma,
        noise_seen=sigma,
        sampling_rate=float(privacy["sampling_rate"]),
        steps=int(privacy["steps"]),
        steps_per_round=settings.local_steps,
        views=settings.views,
        learning_rate=settings.learning_rate,
        expected_batch=settings.sampling_rate * settings.site_population,
        statistics_noise=float(privacy["statistics_noise"]),
        delta=float(privacy["delta"]),
        epsilon=float(privacy["epsilon"]),
        discrete=privacy["trust"] == "distributed",
    )


def _membership(params: Params, sites: Path) -> Membership:
    folders = [sites / name for name in params.preprocess.hospitals]
    return Membership(
        members=_joined([load_image_set(folder / "train.safetensors") for folder in folders]),
        others=_joined([load_image_set(folder / "validation.safetensors") for folder in folders]),
    )


def _joined(sets: Sequence[ImageSet]) -> ImageSet:
    """All images of several hospitals, whose patients are different people."""
    first = [0]
    for each in sets:
        first.append(first[-1] + len(each.patient_ids))
    return ImageSet(
        images=torch.cat([each.images for each in sets]),
        labels=torch.cat([each.labels for each in sets]),
        patients=torch.cat([each.patients + start for each, start in zip(sets, first[:-1], strict=True)]),
        image_ids=tuple(name for each in sets for name in each.image_ids),
        patient_ids=tuple(name for each in sets for name in each.patient_ids),
        classes=sets[0].classes,
    )
