"""What an attack is given: the models and updates that an attacker would see, and what training declares of itself."""

import copy
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from primia.attacks.budget import Budget
from primia.config import Attack as Settings
from primia.config import SecureAggregation, Training
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.models.networks import at_a_time
from primia.models.released import ReleasedModel
from primia.privacy.accounting import Release
from primia.privacy.noise import NoiseSource, SystemNoise
from primia.training.private import private_gradient, train_private

_BATCH = 64

# The signature of primia.training.private.private_gradient.
StepRelease = Callable[..., dict[str, Tensor]]
# The signature of primia.training.private.train_private.
Trainer = Callable[..., None]


@dataclass(frozen=True)
class Declared:
    """What the training says of its privacy, per patient.

    Attributes:
        clip_norm: of one patient's gradient in one step.
        noise_multiplier: σ that was accounted.
        noise_seen: deviation of the noise on what an attacker sees of a step, in clip norms: σ, or with noise in shares
            that of the honest hospitals.
        sampling_rate: chance of a patient to be in a step.
        steps: of the whole training.
        steps_per_round: of which only the sum leaves a hospital.
        views: images of a drawn patient in a step.
        learning_rate: of a step.
        expected_batch: what a step's sum is divided by.
        statistics_noise: noise multiplier of the pooled mean and deviation.
        delta: δ.
        epsilon: that is claimed for all of it.
        discrete: noise in shares.
    """

    clip_norm: float
    noise_multiplier: float
    noise_seen: float
    sampling_rate: float
    steps: int
    steps_per_round: int
    views: int
    learning_rate: float
    expected_batch: float
    statistics_noise: float
    delta: float
    epsilon: float
    discrete: bool = False

    def taking_part(self, steps: int = 1) -> list[Release]:
        """Steps that a patient surely takes part in."""
        return [Release(1.0, self.noise_multiplier, steps, self.discrete)]

    def one_round(self) -> list[Release]:
        """What leaves a hospital in one round of training."""
        return [Release(self.sampling_rate, self.noise_multiplier, self.steps_per_round, self.discrete)]

    def training(self) -> list[Release]:
        """All steps, as they were accounted."""
        return [Release(self.sampling_rate, self.noise_multiplier, self.steps, self.discrete)]

    def everything(self) -> list[Release]:
        """Statistics and training: what `epsilon` is claimed for."""
        return [Release(1.0, self.statistics_noise, 1), *self.training()]


@dataclass(frozen=True)
class Membership:
    """Images of patients who were trained on and of others like them, who were not."""

    members: ImageSet
    others: ImageSet


@dataclass(frozen=True)
class Scene:
    """One model and all that attackers may know or do.

    Attributes:
        first: the model before round 1, the worst point of the training.
        released: the model to be judged.
        candidates: images of consented patients who were not trained on; the attackers' knowledge of the population.
        declared: privacy of the training; None without differential privacy.
        training: settings of the training; its precision, and what plain training takes.
        budget: sizes.
        settings: gallery, confidence and seed.
        aggregation: bounds and grid of what leaves a hospital.
        membership: whose membership is asked for; None where only `candidates` may be used.
        step: releases one step, as a site does.
        trainer: trains privately, as a site does.
        noise: source of noise; None is the operating system's.
        noise_with: `noise_seen` of a head with so many weights, where it depends on that; None where not.
        privacy_digest: of the file that says what is declared; None without one.
        synthetic: the patients are nobody, so that pictures of them may be shown.
    """

    first: ReleasedModel
    released: ReleasedModel
    candidates: ImageSet
    declared: Declared | None
    training: Training
    budget: Budget
    settings: Settings
    aggregation: SecureAggregation = field(default_factory=SecureAggregation)
    membership: Membership | None = None
    step: StepRelease = private_gradient
    trainer: Trainer = train_private
    noise: NoiseSource | None = None
    noise_with: Callable[[int], float] | None = None
    privacy_digest: str | None = None
    synthetic: bool = False

    @property
    def images(self) -> tuple[ImageSet, ...]:
        """Every set of images that an attack may read."""
        known = self.membership
        return (self.candidates,) if known is None else (self.candidates, known.members, known.others)

    def model(self, round: str) -> ReleasedModel:
        """A copy of the model of round `first` or `released`, to do anything to."""
        return copy.deepcopy({"first": self.first, "released": self.released}[round])

    def noise_source(self) -> NoiseSource:
        """A source for one part: the operating system's, or the one of a test."""
        return SystemNoise() if self.noise is None else self.noise

    def generator(self, *purpose: object) -> torch.Generator:
        """Random numbers of the attacker for one purpose, from the seed; equal for equal purposes."""
        named = "\0".join(str(part) for part in ("primia attack", self.settings.seed, *purpose))
        seed = int.from_bytes(hashlib.sha256(named.encode()).digest()[:8]) >> 1
        return torch.Generator().manual_seed(seed)

    def undefended(self) -> tuple[float, float]:
        """Clip norm and noise multiplier of the positive control: none of either."""
        return math.inf, 0.0


def require_fit(images: ImageSet, model: ReleasedModel, *, whose: str = "candidates") -> None:
    """Refuse images, by default those of the candidates, that the model was not made for.

    Raises:
        DataError: other classes, another size, or masks where the model takes classes.
    """
    if images.classes != model.classes or (images.pixels, images.depth) != (model.pixels, model.depth):
        raise DataError(
            f"The {whose} have classes {', '.join(images.classes)} at {_size(images)}, but the model has "
            f"{', '.join(model.classes)} at {_size(model)}; attack it with images preprocessed for it."
        )
    if images.masks != model.segments:
        needed = "a mask for every image" if model.segments else "a class for every image"
        raise DataError(f"The model needs {needed}, which the {whose} lack; run preprocess for its task.")


def _size(of: ImageSet | ReleasedModel) -> str:
    return f"{of.pixels} pixels" if of.depth is None else f"{of.pixels} pixels and {of.depth} slices"


def inputs_of(model: ReleasedModel, images: Tensor) -> Tensor:
    """What the head of `model` sees of images (n, 1, *shape) in [0, 1]; (n, ...) float32, without gradient."""
    with torch.no_grad():
        standardised = (images.float() - model.mean) / model.std
        batches = torch.split(standardised, at_a_time(standardised, _BATCH))
        return torch.cat([model.network.front(batch).float() for batch in batches])


def one_image_each(images: ImageSet, generator: torch.Generator) -> Tensor:
    """One image of every patient, drawn at random, in random order: (patients,) rows of `images`."""
    first_of: dict[int, int] = {}
    for row in torch.randperm(len(images), generator=generator).tolist():
        first_of.setdefault(int(images.patients[row]), row)
    return torch.tensor(list(first_of.values()))


def vector_of(named: dict[str, Tensor]) -> Tensor:
    """Tensors by parameter name as one float32 vector, in the order of the names."""
    return torch.cat([named[name].detach().flatten() for name in sorted(named)]).float()


def weights_of(head: nn.Module) -> dict[str, Tensor]:
    """Parameters of `head` by name, detached and without sharing memory."""
    return {name: weight.detach().clone() for name, weight in head.named_parameters()}
