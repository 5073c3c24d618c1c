"""What an attacker sees of a patient who takes part: a step's update, or a round's change as it leaves the hospital."""

import copy
import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from primia.attacks.scene import Scene, inputs_of, one_image_each, require_fit, vector_of, weights_of
from primia.errors import DataError
from primia.models.released import ReleasedModel
from primia.secagg.quantise import Quantiser, rounding_stream, within_norm

KEPT = 2**30  # float32 values of candidates' gradients, 4 GiB
# Candidates come from this many galleries' worth of patients, where memory allows: enough for fresh galleries.
_POOL = 3


@dataclass(frozen=True)
class Candidates:
    """What the attacker knows: the weights, and one image with its label of every patient there may be.

    Attributes:
        head: the learned part of the network, as broadcast to the sites.
        images: rows of the scene's candidates, (patients,) int64.
        inputs: what the head sees, (patients, ...) float32.
        labels: (patients, ...) int64.
    """

    head: nn.Module
    images: Tensor
    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def deal_candidates(scene: Scene, model: ReleasedModel) -> Candidates:
    """One image of each candidate patient; the same patients for every part.

    Raises:
        DataError: too few patients, or images that do not fit the model.
    """
    images, gallery = scene.candidates, scene.settings.gallery
    require_fit(images, model)
    rows = one_image_each(images, scene.generator("candidates"))
    if len(rows) < gallery:
        raise DataError(
            f"The attack needs {gallery} candidate patients, but there are {len(rows)}; "
            "lower attack.gallery or add test patients."
        )
    # Gradients that do not fit in memory would be computed again for every block of trials: rather fewer candidates.
    weights = sum(parameter.numel() for parameter in model.network.head.parameters())
    rows = rows[: max(gallery, min(_POOL * gallery, KEPT // weights))]
    return Candidates(model.network.head, rows, inputs_of(model, images.images[rows]), images.labels[rows].long())


class View(Protocol):
    """What a patient's taking part shows."""

    def update(self, drawn: list[int], *, defended: bool) -> Tensor:
        """One release in which the candidates `drawn` take part and nobody else, as a gradient, (weights,) float32."""

    def clean(self, row: int, *, defended: bool) -> Tensor:
        """The noiseless gradient of one candidate, (weights,) float32; clipped if it is defended."""

    def together(self, drawn: list[int]) -> Tensor:
        """The noiseless sum of the clipped gradients of several candidates in one step, (weights,) float32."""

    @property
    def most_steps(self) -> int:
        """How many times the gradient of a patient who takes part may be in an update."""


class StepView:
    """One step of a site's training code, seen by whoever follows every step: the accountant's adversary."""

    def __init__(self, scene: Scene, candidates: Candidates) -> None:
        self._scene, self._candidates, self._noise = scene, candidates, scene.noise_source()
        # The same image as often: whoever clips images instead of patients lets a patient count that often.
        self._views = 1 if scene.declared is None else scene.declared.views
        self._kept: dict[tuple[int, float], Tensor] = {}

    @property
    def most_steps(self) -> int:
        """One."""
        return 1

    def update(self, drawn: list[int], *, defended: bool) -> Tensor:
        """As `View.update`."""
        declared = self._scene.declared
        if not defended or declared is None:
            return self._release(drawn, *self._scene.undefended())
        return self._release(drawn, declared.clip_norm, declared.noise_multiplier)

    def clean(self, row: int, *, defended: bool) -> Tensor:
        """As `View.clean`; kept while all fit in memory, computed again beyond."""
        declared = self._scene.declared
        clip_norm = math.inf if declared is None or not defended else declared.clip_norm
        if (row, clip_norm) in self._kept:
            return self._kept[row, clip_norm]
        gradient = self._release([row], clip_norm, 0.0)
        if 2 * len(self._candidates) * gradient.numel() <= KEPT:
            self._kept[row, clip_norm] = gradient
        return gradient

    def together(self, drawn: list[int]) -> Tensor:
        """As `View.together`."""
        assert self._scene.declared is not None
        return self._release(drawn, self._scene.declared.clip_norm, 0.0)

    def _release(self, drawn: list[int], clip_norm: float, noise_multiplier: float) -> Tensor:
        released = self._scene.step(
            self._candidates.head,
            inputs=self._candidates.inputs,
            labels=self._candidates.labels,
            patients_drawn=torch.tensor(drawn, dtype=torch.int64)[:, None].expand(-1, self._views),
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            expected_batch=1,
            noise=self._noise,
            precision=self._scene.training.precision,
            loss=self._scene.training.loss,
        )
        return vector_of(released)


class RoundView:
    """What leaves a hospital in a round of local training: the sum of its steps, bounded and on the integers' grid.

    Secure aggregation hides it among the others' changes; an attacker who holds those subtracts them. Without defence
    the patient is in every step, and nothing is clipped or noised; the grid stays.
    """

    def __init__(self, scene: Scene, candidates: Candidates) -> None:
        assert scene.declared is not None
        self._scene, self._candidates, self._declared = scene, candidates, scene.declared
        self._step, self._noise = StepView(scene, candidates), scene.noise_source()
        self._updates = 0

    @property
    def most_steps(self) -> int:
        """All steps of a round."""
        return self._declared.steps_per_round

    def clean(self, row: int, *, defended: bool) -> Tensor:
        """As `View.clean`: of one step at the weights that the round began with."""
        return self._step.clean(row, defended=defended)

    def together(self, drawn: list[int]) -> Tensor:
        """As `View.together`."""
        return self._step.together(drawn)

    def update(self, drawn: list[int], *, defended: bool) -> Tensor:
        """As `View.update`."""
        declared, candidates, aggregation = self._declared, self._candidates, self._scene.aggregation
        clip_norm, noise_multiplier = self._scene.undefended()
        head = copy.deepcopy(candidates.head)
        before = vector_of(weights_of(head)).double()
        self._scene.trainer(
            head,
            inputs=candidates.inputs[drawn],
            labels=candidates.labels[drawn],
            patients=torch.arange(len(drawn)),
            clip_norm=declared.clip_norm if defended else clip_norm,
            noise_multiplier=declared.noise_multiplier if defended else noise_multiplier,
            sampling_rate=declared.sampling_rate if defended else 1.0,
            expected_batch=declared.expected_batch,
            steps=declared.steps_per_round,
            views=declared.views,
            learning_rate=declared.learning_rate,
            proximal=self._scene.training.proximal,
            precision=self._scene.training.precision,
            loss=self._scene.training.loss,
            noise=self._noise,
        )
        change = (vector_of(weights_of(head)).double() - before).numpy()
        bounded, _ = within_norm(change, bound=aggregation.norm_bound)
        quantiser = Quantiser(bits=aggregation.bits, limit=aggregation.clip_range)
        self._updates += 1
        stream = rounding_stream(self._scene.training.seed, round=self._updates, site="attacked")
        integers, _ = quantiser.quantise(bounded, stream)
        seen = quantiser.mean(integers.astype(np.int64), 1)
        return torch.from_numpy(seen * (-declared.expected_batch / declared.learning_rate)).float()
