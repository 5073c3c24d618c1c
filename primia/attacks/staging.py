"""Setting the scene of the attacks on a trained model, from its files and parameters."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from primia.attacks.budget import BUDGETS
from primia.attacks.scene import Declared, Membership, Scene, require_fit
from primia.attacks.shared_noise import HonestHospitals
from primia.attacks.statement import Statement, Terms
from primia.config import Params
from primia.data.image_set import ImageSet, load_image_set
from primia.errors import ConfigError
from primia.models.released import ReleasedModel
from primia.training.pretrain import initial_network


def set_scene(
    params: Params, statement: Statement, released: ReleasedModel, *, candidates: ImageSet, sites: Path
) -> Scene:
    """The scene of a federation's model.

    Args:
        params: all of params.yaml.
        statement: of the federation's privacy: the noise that was really drawn, not what params.yaml asks for.
        released: the model to be judged.
        candidates: consented patients nobody was trained on.
        sites: holds one folder per hospital; read only with `attack.membership: released`.

    Raises:
        DataError: an image set is missing, or was not made for the model.
        ConfigError: params.yaml names another network than that of the model.
    """
    require_fit(candidates, released)
    asked, trained = params.model, (released.architecture, released.weight_standardisation)
    if (asked.architecture, asked.weight_standardisation) != trained:
        raise ConfigError(
            f"model.architecture is {asked.architecture}, but the model to be attacked is {released.architecture} "
            f"{'with' if released.weight_standardisation else 'without'} model.weight_standardisation; give the "
            "settings that it was trained with."
        )
    network = initial_network(
        params.model, params.training, classes=released.classes, pixels=released.pixels, depth=released.depth
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
        membership=_membership(params, released, sites) if params.attack.membership == "released" else None,
        privacy_digest=statement.digest,
        synthetic=statement.synthetic,
    )
    terms = statement.terms
    if terms is None:
        return scene
    declared = _declared(terms)
    if not declared.discrete:
        return replace(scene, declared=declared)
    parameters = sum(weight.numel() for weight in network.head.parameters())
    honest = HonestHospitals(terms.hospitals, terms.threshold, terms.curious)

    def noise_with(parameters: int) -> float:
        terms = {"clip_norm": declared.clip_norm, "noise_multiplier": declared.noise_multiplier}
        return honest.deviation(honest.share(**terms, parameters=parameters))

    return replace(
        scene,
        declared=replace(declared, noise_seen=noise_with(parameters)),
        step=honest.step,
        trainer=honest.train,
        noise_with=noise_with,
    )


def _declared(terms: Terms) -> Declared:
    return Declared(
        clip_norm=terms.clip_norm,
        noise_multiplier=terms.noise_multiplier,
        noise_seen=terms.noise_multiplier,
        sampling_rate=terms.sampling_rate,
        steps=terms.steps,
        steps_per_round=terms.local_steps,
        views=terms.views,
        learning_rate=terms.learning_rate,
        expected_batch=terms.expected_batch,
        statistics_noise=terms.statistics_noise,
        delta=terms.delta,
        epsilon=terms.epsilon,
        discrete=terms.trust == "distributed",
    )


def _membership(params: Params, released: ReleasedModel, sites: Path) -> Membership:
    def every(split: str) -> ImageSet:
        sets = [load_image_set(sites / name / f"{split}.safetensors") for name in params.preprocess.hospitals]
        for name, each in zip(params.preprocess.hospitals, sets, strict=True):
            require_fit(each, released, whose=f"patients of {name}")
        return _joined(sets)

    return Membership(members=every("train"), others=every("validation"))


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
