"""The imprint attack: a server puts a layer before the network that keeps one patient's image for itself."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from primia.attacks.bounds import reconstruction_bound
from primia.attacks.budget import Budget
from primia.attacks.contract import Advance, Outcome, Part, counted
from primia.attacks.lineups import draw_lineups
from primia.attacks.scene import Scene, one_image_each
from primia.attacks.similarity import Likeness, psnr
from primia.errors import DataError

CONVINCING = 0.5
_BINS = 64
_OTHERS = 7  # patients in the same step
_TRIALS = 200  # of one part
_OWN = 0.25  # share of the candidates that only the attacker uses
_EMPTY = 1e-12  # difference of two bins' biases that nobody made
_MOST_VALUES = 2**14  # of an image that the layer sees; every one has a weight in each bin, and noise of its own


class ImprintedNetwork(nn.Module):
    """Bins over one number that is measured of each image, and a layer that treats all bins alike (Fowl et al. 2022).

    Bin i is active for images whose measurement exceeds its edge. The gradients of two neighbouring bins then differ
    by the images that lie between their edges, and that difference, divided by the one of their biases, is the image
    if there is one. `measure` is (values,), `edges` (bins,) ascending. `shrink` comes before, and makes of an image the
    smaller one that is measured and caught.
    """

    def __init__(self, measure: Tensor, edges: Tensor, *, classes: int, shrink: nn.Module | None = None) -> None:
        super().__init__()
        self.shrink = shrink or nn.Identity()
        bins, values = nn.Linear(len(measure), len(edges)), nn.Linear(len(edges), classes)
        with torch.no_grad():
            bins.weight.copy_(measure.expand(len(edges), -1))
            bins.bias.copy_(-edges)
            values.weight.copy_(torch.linspace(-1, 1, classes)[:, None].expand(-1, len(edges)) / len(edges))
            values.bias.zero_()
        self.body = nn.Sequential(nn.Flatten(), bins, nn.ReLU(), values)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 1, *shape)."""
        logits: Tensor = self.body(self.shrink(images))
        return logits


def shrinking(shape: Sequence[int]) -> tuple[nn.Module, list[int]]:
    """The mean over the smallest equal blocks that leave at most `_MOST_VALUES` values of an image, and their shape.

    `shape` is that of the image or volume.
    """
    for side in itertools.count(1):
        blocks = [math.ceil(axis / side) for axis in shape]
        if math.prod(blocks) <= _MOST_VALUES:
            break
    mean = nn.AvgPool2d if len(shape) == 2 else nn.AvgPool3d
    return (nn.Identity() if side == 1 else mean(side, ceil_mode=True)), blocks


@dataclass(frozen=True)
class Imprint:
    """The attacker sends its own network, and reads an image out of the update of a step with eight patients.

    A trial is one step. The attacker holds `gallery` equally likely candidates for one of the patients, knows nothing
    of the other seven, and names the candidate whose own bin shows an image most like it. The chance is 1/gallery; γ
    bounds it, since differential privacy holds for whatever network is sent. Of large images and volumes the network
    takes means over blocks first, and these are what is caught: enough to know a patient by.

    It needs a hospital that trains what it is sent. Real ones refuse: the plan that they signed fixes the architecture,
    and weights of another length are an error (`tests/federation/test_site.py` sends one an imprinted network). Weights
    of the right length may still be crafted; against those, as against this attack, only differential privacy helps.

    Facts: bins; shape, of the images that are caught; alone, how often the patient had a bin of its own; psnr, median
    over the undefended trials, in dB.
    """

    round: str = "first"

    name = "imprint"
    version = 2
    tier = "relaxed"

    def trials(self, budget: Budget) -> int:
        """Steps."""
        return budget.imprint_trials

    def parts(self, scene: Scene) -> int:
        """So many trials at a time."""
        return math.ceil(self.trials(scene.budget) / _TRIALS)

    def part(self, scene: Scene, index: int, advance: Advance) -> Part:
        """Trials undefended, from what nobody contributed to, and as released."""
        trap = _Trap(scene)
        trials = min(_TRIALS, self.trials(scene.budget) - index * _TRIALS)
        generator = scene.generator("imprint", index)
        lineups = draw_lineups(
            patients=trap.patients, gallery=scene.settings.gallery, trials=trials, generator=generator
        )
        arms = {"undefended": (False, True), "nobody": (True, False)}
        if scene.declared is not None:
            arms["attacked"] = (True, True)
        hits, alone, quality = dict.fromkeys(arms, 0), 0, []
        for trial, (members, target) in enumerate(zip(lineups.members, lineups.targets.tolist(), strict=True)):
            strangers = trap.strangers(members, generator)
            patient = int(members[target])
            for arm, (defended, anybody) in arms.items():
                drawn = [patient, *strangers] if anybody else strangers
                images = trap.read(scene, drawn, defended=defended)
                hits[arm] += trap.best(images, members) == target
                if arm == "undefended":
                    alone += trap.alone(patient, strangers)
                    quality.append(trap.quality(images, patient))
            advance(trial + 1, trials)
        values: dict[str, Any] = {**hits, "trials": trials, "alone": alone, "psnr": quality}
        return Part(values)

    def gather(self, scene: Scene, parts: Sequence[Part]) -> Outcome:
        """Sum up."""
        chance, declared = 1 / scene.settings.gallery, scene.declared
        total = sum(part.values["trials"] for part in parts)

        hits = partial(counted, parts, chance=chance)

        quality = torch.tensor([value for part in parts for value in part.values["psnr"]])
        return Outcome(
            deed="read an image nearest to the right patient's",
            cases="updates",
            trials=hits("undefended" if declared is None else "attacked"),
            bound=None if declared is None else reconstruction_bound(declared.taking_part(), chance=chance),
            promise="The declared privacy of one step",
            positive=hits("undefended"),
            negative=hits("nobody"),
            convincing=CONVINCING,
            facts={
                "bins": _BINS,
                "shape": shrinking(scene.candidates.images.shape[2:])[1],
                "alone": sum(part.values["alone"] for part in parts) / total,
                "psnr": float(quality.median()),
            },
        )


class _Trap:
    """The altered network, and what its sender knows: images of its own, and those of all candidates."""

    def __init__(self, scene: Scene) -> None:
        model, candidates = scene.first, scene.candidates
        rows, gallery = one_image_each(candidates, scene.generator("imprint")), scene.settings.gallery
        own = int(_OWN * len(rows))
        if len(rows) - own < gallery + _OTHERS:
            own = len(rows) - gallery - _OTHERS
        if own < 1:
            raise DataError(
                f"The attack needs {gallery + _OTHERS + 1} candidate patients, but there are {len(rows)}; "
                "lower attack.gallery or add test patients."
            )
        self._mean, self._std, self._noise = model.mean, model.std, scene.noise_source()
        whole = candidates.images[rows].float()
        shrink, _ = shrinking(whole.shape[2:])
        images = torch.cat([shrink(one) for one in whole[:, None]])
        self._likeness = Likeness(images[:own].mean(dim=0))
        self._images = images[own:]
        self._inputs = (whole[own:] - self._mean) / self._std
        # One class for all: what is read does not depend on it, and a segmentation has none.
        self._labels = torch.zeros(len(self._images), dtype=torch.int64)
        values = images[0].numel()
        direction = torch.randn(values, generator=scene.generator("measure")) / values**0.5
        known = ((images - self._mean) / self._std).flatten(1) @ direction
        # As if all measurements were normal (Fowl et al. 2022), of whose mean and deviation the attacker knows.
        edges = known.mean() + known.std() * torch.special.ndtri(torch.linspace(0, 1, _BINS + 2)[1:-1])
        self._measured = known[own:]
        self._bin = (self._measured[:, None] > edges).sum(dim=1)  # 0: below all
        self._network = ImprintedNetwork(direction, edges, shrink=shrink, classes=len(model.classes))

    @property
    def patients(self) -> int:
        """How many candidates there are."""
        return len(self._images)

    def strangers(self, members: Tensor, generator: torch.Generator) -> list[int]:
        """Patients of the same step who are nobody's candidates."""
        order = torch.randperm(self.patients, generator=generator)
        return order[~torch.isin(order, members)][:_OTHERS].tolist()

    def read(self, scene: Scene, drawn: list[int], *, defended: bool) -> Tensor:
        """What each bin shows after a step of the patients `drawn`, (bins + 1, 1, *shape); NaN where nothing is."""
        declared = scene.declared
        clip_norm, noise_multiplier = scene.undefended()
        if defended and declared is not None:
            clip_norm, noise_multiplier = declared.clip_norm, declared.noise_multiplier
        update = scene.step(
            self._network,
            inputs=self._inputs,
            labels=self._labels,
            patients_drawn=[torch.tensor(row) for row in drawn],
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            expected_batch=1,
            noise=self._noise,
            precision=scene.training.precision,
        )
        weight, bias = update["body.1.weight"].double(), update["body.1.bias"].double()
        between = torch.diff(weight, dim=0, append=torch.zeros_like(weight[:1]))
        share = torch.diff(bias, append=torch.zeros_like(bias[:1]))
        images = torch.full((_BINS + 1, weight.shape[1]), math.nan, dtype=torch.float64)
        made = share.abs() > _EMPTY
        images[1:][made] = between[made] / share[made, None]
        return images.view(-1, *self._images.shape[1:]) * self._std + self._mean

    def best(self, images: Tensor, members: Tensor) -> int:
        """Place in `members` of the candidate whose bin shows an image most like it."""
        shown = images[self._bin[members]]
        there = ~shown.isnan().flatten(1).any(dim=1)
        alike = torch.full((len(members),), -math.inf, dtype=torch.float64)
        if not there.any():
            return 0
        alike[there] = self._likeness.between(shown[there], self._images[members[there]]).diagonal()
        return int(alike.argmax())

    def alone(self, patient: int, others: Sequence[int]) -> bool:
        """Whether no other patient of the step is in the patient's bin, which is one of those that can be read."""
        return bool(self._bin[patient] > 0 and not (self._bin[list(others)] == self._bin[patient]).any())

    def quality(self, images: Tensor, patient: int) -> float:
        """PSNR of what the patient's bin shows, in dB; 0 if nothing."""
        shown = images[self._bin[patient]][None]
        return 0.0 if bool(shown.isnan().any()) else float(psnr(shown, self._images[patient][None])[0])
