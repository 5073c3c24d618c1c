"""Finding the image behind an update: what the attacker of an inversion knows, and how hard it tries."""

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.attacks.budget import Budget
from primia.attacks.contract import Advance
from primia.attacks.reconstruct import gradients_of, reconstruct
from primia.attacks.scene import Scene, inputs_of, vector_of
from primia.attacks.similarity import psnr
from primia.models.released import ReleasedModel

HELD_OUT = 2  # patients that choose the weight of the total variation
_AT_ONCE = 2**26  # values of gradients that are held at a time
_PIXELS_AT_ONCE = 2**21  # of images
_LESS = 8  # times fewer steps of a short attempt
_WANDERING = 0.05  # deviation of the smooth change from which a further attempt starts


class Inverter:
    """What all arms share: model, prior knowledge and effort.

    Attributes:
        average: image of the attacker's own patients, (1, *shape).
    """

    def __init__(self, scene: Scene, model: ReleasedModel, *, own: Tensor) -> None:
        """`own` are rows of the scene's candidates whom nobody looks for."""
        self._scene, self._model = scene, model
        self.average = scene.candidates.images[own].float().mean(dim=0)
        self._belief = _average_belief(scene.candidates.labels[own], len(model.classes)) if model.segments else None
        weights = sum(weight.numel() for weight in model.network.head.parameters())
        self._at_once = max(1, min(_AT_ONCE // weights, _PIXELS_AT_ONCE // self.average.numel()))
        self._device = device_for(scene.budget)
        self._network = copy.deepcopy(model.network).to(self._device)
        self._tell: Callable[[int], None] = lambda done: None

    def tell(self, advance: Advance, *, patients: int) -> None:
        """Count patients towards so many."""
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            advance(done, patients)

        self._tell = count

    def choose_variation(self, rows: Tensor) -> float:
        """The weight with which undefended updates of `rows` give the truest images."""
        choices = self._scene.budget.inversion_variations
        images = self._scene.candidates.images[rows].float()
        updates = updates_of(self._scene, self._model, rows, defended=False)
        quality = []
        for choice in choices:
            found = self._attempt(updates, start=self._start(len(rows)), variation=choice)[0]
            quality.append(float(psnr(found, images).mean()))
        self._tell(len(rows))
        return choices[max(range(len(choices)), key=lambda place: quality[place])]

    def find(self, updates: Tensor, *, variation: float, purpose: tuple[object, ...]) -> Tensor:
        """The best image for each update, (n, 1, *shape)."""
        generator = self._scene.generator("inversion", self._model.round, *purpose)
        found = torch.empty(len(updates), *self.average.shape)
        for rows in torch.split(torch.arange(len(updates)), self._at_once):
            tried = [
                self._from_the_best(updates[rows], variation=variation, generator=generator)
                for _ in range(self._scene.budget.inversion_seeds)
            ]
            found[rows] = _fittest(tried)[0]
            self._tell(len(rows))
        return found

    def _from_the_best(self, updates: Tensor, *, variation: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        budget = self._scene.budget
        starts = [self._start(len(updates), generator) for _ in range(budget.inversion_restarts)]
        start = starts[0]
        if len(starts) > 1:
            steps = budget.inversion_steps // _LESS
            short = [self._attempt(updates, start=each, variation=variation, steps=steps) for each in starts]
            start = _fittest(short)[0]
        return self._attempt(updates, start=start, variation=variation)

    def _attempt(
        self, updates: Tensor, *, start: Tensor, variation: float, steps: int | None = None
    ) -> tuple[Tensor, Tensor]:
        network, mean, std = self._network, self._model.mean, self._model.std
        targets = self._targets(updates).to(self._device)
        beliefs = targets.requires_grad_() if self._model.segments else None

        def gradient_of(images: Tensor) -> Tensor:
            inputs = network.front((images - mean) / std).float()
            wanted = targets if beliefs is None else beliefs.softmax(dim=1)
            return gradients_of(network.head, inputs, wanted, loss=self._scene.training.loss)

        images, losses = reconstruct(
            updates.to(self._device),
            gradient_of,
            start=start.to(self._device),
            steps=self._scene.budget.inversion_steps if steps is None else steps,
            variation=torch.full((len(updates),), variation, device=self._device),
            beliefs=beliefs,
        )
        return images.cpu(), losses.cpu()

    def _targets(self, updates: Tensor) -> Tensor:
        """The class of each image as (n, classes), or logits of its mask to begin with, (n, classes, *shape)."""
        if self._belief is None:
            return functional.one_hot(read_labels(self._model.network.head, updates), len(self._model.classes)).float()
        return self._belief.expand(len(updates), *self._belief.shape).clone()

    def _start(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The average image, changed smoothly and at random if a generator is given; (n, 1, *shape)."""
        start = self.average.expand(n, *self.average.shape).clone()
        if generator is None:
            return start
        shape = start.shape[2:]
        coarse = _WANDERING * torch.randn(n, 1, *(4 for _ in shape), generator=generator)
        mode = "bicubic" if len(shape) == 2 else "trilinear"
        return (start + functional.interpolate(coarse, size=shape, mode=mode)).clamp(0, 1)


def device_for(budget: Budget) -> torch.device:
    """Where images are looked for: with the full budget on a GPU where there is one, else on the processor."""
    return torch.device("cuda" if budget.name == "full" and torch.cuda.is_available() else "cpu")


def read_labels(head: nn.Module, updates: Tensor) -> Tensor:
    """The class of each update's image, (n,) int64: the one whose bias in the last layer is to grow (Zhao et al. 2020).

    Args:
        head: whose last parameter with one value for each class is that bias.
        updates: gradients, (n, weights), in the order of the parameters' names.
    """
    sizes = {name: weight.numel() for name, weight in sorted(head.named_parameters())}
    last = [name for name, weight in head.named_parameters() if weight.ndim == 1][-1]
    first = sum(size for name, size in sizes.items() if name < last)
    return updates[:, first : first + sizes[last]].argmin(dim=1)


def updates_of(scene: Scene, model: ReleasedModel, rows: Tensor, *, defended: bool, anybody: bool = True) -> Tensor:
    """One step's update for each of `rows` alone, (n, weights); without `anybody`, of nobody."""
    head, noise, declared = model.network.head, scene.noise_source(), scene.declared
    clip_norm, noise_multiplier = scene.undefended()
    if defended and declared is not None:
        clip_norm, noise_multiplier = declared.clip_norm, declared.noise_multiplier
    inputs, labels = inputs_of(model, scene.candidates.images[rows]), scene.candidates.labels[rows]
    seen = [
        vector_of(
            scene.step(
                head,
                inputs=inputs,
                labels=labels,
                patients_drawn=[torch.tensor(row)] if anybody else [],
                clip_norm=clip_norm,
                noise_multiplier=noise_multiplier,
                expected_batch=1,
                noise=noise,
                precision=scene.training.precision,
                loss=scene.training.loss,
            )
        )
        for row in range(len(rows))
    ]
    if not anybody and noise_multiplier == 0:  # an update of zeros fits every image
        generator = scene.generator("nobody", model.round, rows.tolist())
        return torch.randn(len(seen), len(seen[0]), generator=generator)
    return torch.stack(seen)


def _average_belief(masks: Tensor, classes: int) -> Tensor:
    """Logits of how often a pixel is of each class in masks (n, *shape); (classes, *shape)."""
    counts = torch.stack([(masks == structure).sum(dim=0) for structure in range(classes)])
    return ((counts + 1) / (len(masks) + classes)).log()


def _fittest(tried: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Of several (images, losses) the image with the least loss, for each row."""
    losses = torch.stack([loss for _, loss in tried])
    best = losses.argmin(dim=0)
    rows = torch.arange(len(best))
    return torch.stack([images for images, _ in tried])[best, rows], losses[best, rows]
