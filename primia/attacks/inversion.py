"""Gradient inversion: what image made this update? Realistic, the attacker knowing the weights and images of others."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from primia.attacks.bounds import reconstruction_bound
from primia.attacks.budget import Budget
from primia.attacks.contract import Advance, Outcome, Part, counted
from primia.attacks.inverting import HELD_OUT, Inverter, updates_of
from primia.attacks.scene import Scene, one_image_each
from primia.attacks.similarity import Likeness, psnr, ssim, summary
from primia.errors import DataError

CONVINCING = 0.5
_BLOCK = 10  # patients of one part
# A step takes as long for a pixel as for so many values of a gradient: what matters for large images and volumes.
_VALUES_OF_A_PIXEL = 2**8
_OWN = 0.25  # share of the candidates that only the attacker uses


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
    class only); a mask is found jointly with the image, from the average one: a mask that is known points to its
    patient by itself.

    The weight of the total variation is chosen on held-out patients' undefended updates, then fixed for all arms. Large
    networks are tried on fewer patients (`Budget.inversion_values`).

    Facts: variation, patients, steps; psnr and ssim of undefended, defended, average (the average image of patients
    whom nobody looks for) and other (another patient's image), each as median, best, mean, low and high (95 %
    bootstrap over patients). Pictures: original, average, undefended and defended of the best and the median patient.
    """

    round: str = "first"

    name = "gradient_inversion"
    version = 2
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
        attacker = Inverter(scene, model, own=deal.own)
        arms: dict[str, Callable[[], Tensor]] = {
            "undefended": lambda: updates_of(scene, model, rows, defended=False),
            "nobody": lambda: updates_of(scene, model, rows, defended=True, anybody=False),
        }
        if scene.declared is not None:
            arms["attacked"] = lambda: updates_of(scene, model, rows, defended=True)
        attacker.tell(advance, patients=len(rows) * len(arms) + HELD_OUT)
        variation = attacker.choose_variation(deal.own[:HELD_OUT])
        images, pool = scene.candidates.images[rows].float(), scene.candidates.images[deal.pool].float()
        lineups = _lineups(scene, len(deal.pool), first=index * _BLOCK, patients=len(rows))
        likeness = Likeness(attacker.average)
        values: dict[str, Any] = {"variation": variation, "trials": len(rows)}
        arrays = {"original": images, "average": attacker.average}
        for arm, updates in arms.items():
            found = attacker.find(updates(), variation=variation, purpose=(arm, index))
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


def _flat(image: Tensor) -> Tensor:
    """What a picture shows of an image: all of it, or of a volume the middle slice."""
    return image if image.ndim == 2 else image[..., image.shape[-1] // 2]


def _dealt(scene: Scene) -> _Deal:
    rows, gallery = one_image_each(scene.candidates, scene.generator("inversion")), scene.settings.gallery
    own = min(int(_OWN * len(rows)), len(rows) - gallery)
    if own < HELD_OUT:
        raise DataError(
            f"The attack needs {gallery + HELD_OUT} candidate patients, but there are {len(rows)}; "
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
