"""Gradient inversion: what image made this update? Realistic, the attacker knowing the weights and images of others."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.attacks.bounds import reconstruction_bound
from primia.attacks.budget import Budget
from primia.attacks.contract import Advance, Outcome, Part, counted
from primia.attacks.reconstruct import gradients_of, reconstruct
from primia.attacks.scene import Scene, inputs_of, one_image_each, vector_of
from primia.attacks.similarity import Likeness, psnr, ssim, summary
from primia.errors import DataError
from primia.models.released import ReleasedModel

CONVINCING = 0.5
_BLOCK = 10  # patients of one part
_AT_ONCE = 2**26  # values of gradients that are held at a time
_PIXELS_AT_ONCE = 2**21  # of images
# A step takes as long for a pixel as for so many values of a gradient: what matters for large images and volumes.
_VALUES_OF_A_PIXEL = 2**8
_HELD_OUT = 2  # patients that choose the weight of the total variation
_OWN = 0.25  # share of the candidates that only the attacker uses
_LESS = 8  # times fewer steps of a short attempt
_WANDERING = 0.05  # deviation of the smooth change from which a further attempt starts


@dataclass(frozen=True)
class _Deal:
    """Rows of the scene's candidates: `own` the attacker learns from, `pool` its galleries are drawn from."""

    own: Tensor
    pool: Tensor


@dataclass(frozen=True)
class GradientInversion:
    """The attacker reconstructs the image behind one step's update of one patient, and so finds who it was.

    A trial is one patient: of all starting points the attacker keeps the image whose gradient fits best, and succeeds
    if that image is nearest to the patient's among `gallery` patients (`Likeness`). The chance is 1/gallery, and γ
    bounds it like any guess. The label is read from the update (the gradient of the last bias is negative for one
    class only); of a segmentation the mask is `known`, or found `joint`ly with the image.

    The weight of the total variation is chosen on held-out patients' undefended updates, then fixed for all arms. Large
    networks are tried on fewer patients (`Budget.inversion_values`).

    Facts: variation, patients, steps; psnr and ssim of undefended, defended, average (the average image of patients
    whom nobody looks for) and other (another patient's image), each as median, best, mean, low and high (95 %
    bootstrap over patients). Pictures: original, average, undefended and defended of the best and the median patient.
    """

    round: str = "first"
    mask: Literal["known", "joint"] = "known"

    name = "gradient_inversion"
    version = 1
    tier = "realistic"

    def trials(self, budget: Budget) -> int:
        """Patients."""
        return budget.inversion_patients

    def parts(self, scene: Scene) -> int:
        """A block of patients each."""
        return math.ceil(self._patients(scene) / _BLOCK)

    def part(self, scene: Scene, index: int, advance: Advance) -> Part:
        """Reconstruct a block of patients' images: undefended, from what nobody contributed to, and as released."""
        model = scene.model(self.round)
        deal = _dealt(scene)
        rows = deal.pool[index * _BLOCK : min((index + 1) * _BLOCK, self._patients(scene))]
        average = scene.candidates.images[deal.own].float().mean(dim=0)
        attacker = _Attacker(scene, model, average=average, joint=self.mask == "joint")
        arms: dict[str, Callable[[], Tensor]] = {
            "undefended": lambda: _updates(scene, model, rows, defended=False),
            "nobody": lambda: _updates(scene, model, rows, defended=True, anybody=False),
        }
        if scene.declared is not None:
            arms["attacked"] = lambda: _updates(scene, model, rows, defended=True)
        attacker.tell(advance, patients=len(rows) * len(arms) + _HELD_OUT)
        variation = attacker.choose_variation(deal.own[:_HELD_OUT])
        images, pool = scene.candidates.images[rows].float(), scene.candidates.images[deal.pool].float()
        labels = scene.candidates.labels[rows].long()
        lineups = _lineups(scene, len(deal.pool), first=index * _BLOCK, patients=len(rows))
        likeness = Likeness(average)
        values: dict[str, Any] = {"variation": variation, "trials": len(rows)}
        arrays = {"original": images, "average": average}
        for arm, updates in arms.items():
            found = attacker.find(updates(), labels, variation=variation, purpose=(arm, index))
            alike = likeness.between(found, pool).gather(1, lineups)
            # Strictly nearest: of equals, or of what is no number, nobody was found.
            values[arm] = int((alike[:, 0] > alike[:, 1:].amax(dim=1)).sum())
            arrays[arm] = found
        return Part(values, arrays)

    def gather(self, scene: Scene, parts: Sequence[Part]) -> Outcome:
        """Count the patients found, and compare the images."""
        chance, total = 1 / scene.settings.gallery, sum(part.values["trials"] for part in parts)

        hits = partial(counted, parts, chance=chance)

        def joined(arm: str) -> Tensor:
            return torch.cat([part.arrays[arm] for part in parts])

        declared, images, average = scene.declared, joined("original"), parts[0].arrays["average"]
        shown = {"undefended": joined("undefended"), "defended": joined("attacked" if declared else "undefended")}
        compared = {**shown, "average": average.expand_as(images), "other": images.roll(1, dims=0)}
        quality = {name: {"psnr": psnr(found, images), "ssim": ssim(found, images)} for name, found in compared.items()}
        order = quality["undefended"]["ssim"].argsort()
        pictures: dict[str, Tensor] = {}
        for row, patient in (("best", int(order[-1])), ("median", int(order[len(order) // 2]))):
            pictures |= {f"{row}_original": _flat(images[patient, 0]), f"{row}_average": _flat(average[0])}
            pictures |= {f"{row}_{name}": _flat(found[patient, 0]) for name, found in shown.items()}
        return Outcome(
            deed="found an image nearest to the right patient's",
            cases="updates",
            trials=hits("attacked" if declared else "undefended"),
            bound=None if declared is None else reconstruction_bound(declared.taking_part(), chance=chance),
            promise="The declared privacy of one step",
            positive=hits("undefended"),
            negative=hits("nobody"),
            convincing=CONVINCING,
            facts={
                "variation": parts[0].values["variation"],
                "patients": total,
                "steps": scene.budget.inversion_steps,
                **{
                    name: {figure: summary(values, seed=scene.settings.seed) for figure, values in each.items()}
                    for name, each in quality.items()
                },
            },
            pictures=pictures,
        )

    def _patients(self, scene: Scene) -> int:
        head = (scene.first if self.round == "first" else scene.released).network.head
        weights = sum(weight.numel() for weight in head.parameters())
        values = max(weights, _VALUES_OF_A_PIXEL * scene.candidates.images[0].numel())
        affordable = max(1, scene.budget.inversion_values // values)
        return min(scene.budget.inversion_patients, affordable, len(_dealt(scene).pool))


class _Attacker:
    """What all arms share: model, prior knowledge and effort."""

    def __init__(self, scene: Scene, model: ReleasedModel, *, average: Tensor, joint: bool) -> None:
        self._scene, self._model, self._average, self._joint = scene, model, average, joint
        weights = sum(weight.numel() for weight in model.network.head.parameters())
        self._at_once = max(1, min(_AT_ONCE // weights, _PIXELS_AT_ONCE // average.numel()))
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
        images, labels = self._scene.candidates.images[rows].float(), self._scene.candidates.labels[rows].long()
        updates = _updates(self._scene, self._model, rows, defended=False)
        quality = []
        for choice in choices:
            found = self._attempt(
                updates, self._targets(updates, labels), start=self._start(len(rows)), variation=choice
            )[0]
            quality.append(float(psnr(found, images).mean()))
        self._tell(len(rows))
        return choices[max(range(len(choices)), key=lambda place: quality[place])]

    def find(self, updates: Tensor, labels: Tensor, *, variation: float, purpose: tuple[object, ...]) -> Tensor:
        """The best image for each update, (n, 1, *shape); `labels` serve as masks only."""
        generator = self._scene.generator("inversion", self._model.round, *purpose)
        found = torch.empty(len(updates), *self._average.shape)
        for rows in torch.split(torch.arange(len(updates)), self._at_once):
            targets = self._targets(updates[rows], labels[rows])
            tried = [
                self._from_the_best(updates[rows], targets, variation=variation, generator=generator)
                for _ in range(self._scene.budget.inversion_seeds)
            ]
            found[rows] = _fittest(tried)[0]
            self._tell(len(rows))
        return found

    def _from_the_best(
        self, updates: Tensor, targets: Tensor, *, variation: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        budget = self._scene.budget
        starts = [self._start(len(updates), generator) for _ in range(budget.inversion_restarts)]
        start = starts[0]
        if len(starts) > 1:
            steps = budget.inversion_steps // _LESS
            short = [self._attempt(updates, targets, start=each, variation=variation, steps=steps) for each in starts]
            start = _fittest(short)[0]
        return self._attempt(updates, targets, start=start, variation=variation)

    def _attempt(
        self, updates: Tensor, targets: Tensor, *, start: Tensor, variation: float, steps: int | None = None
    ) -> tuple[Tensor, Tensor]:
        network, mean, std = self._model.network, self._model.mean, self._model.std
        training = self._scene.training
        beliefs = torch.zeros_like(targets, requires_grad=True) if self._joint and targets.ndim > 2 else None

        def gradient_of(images: Tensor) -> Tensor:
            wanted = targets if beliefs is None else beliefs.softmax(dim=1)
            return gradients_of(network.head, network.front((images - mean) / std).float(), wanted, loss=training.loss)

        return reconstruct(
            updates,
            gradient_of,
            start=start,
            steps=self._scene.budget.inversion_steps if steps is None else steps,
            variation=torch.full((len(updates),), variation),
            beliefs=beliefs,
        )

    def _targets(self, updates: Tensor, labels: Tensor) -> Tensor:
        classes = len(self._model.classes)
        if labels.ndim > 1:
            return functional.one_hot(labels, classes).movedim(-1, 1).float()
        return functional.one_hot(read_labels(self._model.network.head, updates), classes).float()

    def _start(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """The average image, changed smoothly and at random if a generator is given; (n, 1, *shape)."""
        start = self._average.expand(n, *self._average.shape).clone()
        if generator is None:
            return start
        shape = start.shape[2:]
        coarse = _WANDERING * torch.randn(n, 1, *(4 for _ in shape), generator=generator)
        mode = "bicubic" if len(shape) == 2 else "trilinear"
        return (start + functional.interpolate(coarse, size=shape, mode=mode)).clamp(0, 1)


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


def _flat(image: Tensor) -> Tensor:
    """What a picture shows of an image: all of it, or of a volume the middle slice."""
    return image if image.ndim == 2 else image[..., image.shape[-1] // 2]


def _fittest(tried: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Of several (images, losses) the image with the least loss, for each row."""
    losses = torch.stack([loss for _, loss in tried])
    best = losses.argmin(dim=0)
    rows = torch.arange(len(best))
    return torch.stack([images for images, _ in tried])[best, rows], losses[best, rows]


def _updates(scene: Scene, model: ReleasedModel, rows: Tensor, *, defended: bool, anybody: bool = True) -> Tensor:
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


def _dealt(scene: Scene) -> _Deal:
    rows, gallery = one_image_each(scene.candidates, scene.generator("inversion")), scene.settings.gallery
    own = min(int(_OWN * len(rows)), len(rows) - gallery)
    if own < _HELD_OUT:
        raise DataError(
            f"The attack needs {gallery + _HELD_OUT} candidate patients, but there are {len(rows)}; "
            "lower attack.gallery or add test patients."
        )
    return _Deal(own=rows[:own], pool=rows[own:])


def _lineups(scene: Scene, pool: int, *, first: int, patients: int) -> Tensor:
    """Places in the pool for each patient, (patients, gallery): the patient's own, then others at random."""
    rows = []
    for patient in range(first, first + patients):
        others = torch.randperm(pool, generator=scene.generator("lineup", patient))
        others = others[others != patient][: scene.settings.gallery - 1]
        rows.append(torch.cat([torch.tensor([patient]), others]))
    return torch.stack(rows)
