"""Small scenes for the tests of attacks: synthetic patients, an untrained model, real training code, seeded noise."""

import dataclasses

import torch
from torch import Tensor

from primia.attacks.budget import QUICK
from primia.attacks.campaign import Campaign
from primia.attacks.contract import AttackReport
from primia.attacks.scene import Declared, Scene
from primia.config import Attack as Settings
from primia.config import Training
from primia.data.image_set import ImageSet
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.privacy.accounting import epsilon_of

CLASSES = ("normal", "bacterial", "viral")
SMALL = dataclasses.replace(QUICK, retrieval_trials=40)
SETTINGS = Settings(gallery=16, confidence=0.95, seed=3)
DECLARED = Declared(
    clip_norm=0.5,
    noise_multiplier=1.0,
    noise_seen=1.0,
    sampling_rate=0.5,
    steps=8,
    steps_per_round=2,
    views=1,
    learning_rate=0.3,
    expected_batch=10.0,
    statistics_noise=10.0,
    delta=1e-4,
    epsilon=0.0,
)
DECLARED = dataclasses.replace(DECLARED, epsilon=epsilon_of(DECLARED.everything(), delta=DECLARED.delta))


class SeededNoise:
    """Reproducible noise, for tests only; `scale` 0.1 is the classic defect."""

    def __init__(self, scale: float = 1.0, seed: int = 0) -> None:
        self.scale = scale
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64) * self.scale

    def uniform(self, n: int) -> Tensor:
        return torch.rand(n, generator=self.generator, dtype=torch.float64)


def images_of(patients: int, *, pixels: int = 16, identical: bool = False, seed: int = 5) -> ImageSet:
    """Two images of noise for each patient."""
    generator = torch.Generator().manual_seed(seed)
    count = 2 * patients
    images = torch.rand(count, 1, pixels, pixels, generator=generator).half()
    labels = torch.arange(count) // 2 % 3
    if identical:
        images, labels = images[:1].expand_as(images).clone(), torch.zeros_like(labels)
    return ImageSet(
        images=images,
        labels=labels,
        patients=torch.arange(count) // 2,
        image_ids=tuple(f"image-{i}" for i in range(count)),
        patient_ids=tuple(f"patient-{i}" for i in range(patients)),
        classes=CLASSES,
    )


def one_each(images: Tensor, labels: Tensor, classes: tuple[str, ...] = CLASSES) -> ImageSet:
    """One image of each patient."""
    count = len(images)
    return ImageSet(
        images=images,
        labels=labels,
        patients=torch.arange(count),
        image_ids=tuple(f"image-{i}" for i in range(count)),
        patient_ids=tuple(f"patient-{i}" for i in range(count)),
        classes=classes,
    )


def model_of(architecture: str = "scattering", *, pixels: int = 16, seed: int = 1) -> ReleasedModel:
    network = build_network(architecture, classes=3, pixels=pixels, seed=seed)
    return ReleasedModel(
        network=network, architecture=architecture, classes=CLASSES, pixels=pixels, mean=0.5, std=0.29, round=0
    )


def scene_of(**changes) -> Scene:
    """A scene with small images; equal seeds give equal noise."""
    model = changes.pop("model", None) or model_of()
    known = {
        "first": model,
        "released": model,
        "candidates": images_of(20),
        "declared": DECLARED,
        "training": Training(learning_rate=0.05, augment=False),
        "budget": SMALL,
        "settings": SETTINGS,
        "noise": SeededNoise(),
    }
    return Scene(**(known | changes))


def report_of(attack, scene: Scene, folder) -> AttackReport:
    """All parts of one attack in turn, judged."""
    campaign = Campaign(scene, [attack], folder, on_progress=lambda done, total: None)
    for job in campaign.jobs:
        campaign.do(job)
    [report] = campaign.reports()
    return report
