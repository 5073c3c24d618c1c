"""Noise in shares, as an attacker sees it who holds the curious hospitals' shares and subtracts them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from primia.privacy.discrete_gaussian import DEVIATION
from primia.privacy.noise import NoiseSource
from primia.privacy.shares import NoiseShare, share_plan
from primia.training.private import clipped_gradient_sum, train_private


@dataclass(frozen=True)
class HonestHospitals:
    """Those whose noise the attacker does not know: the fewest that a sum is opened with, less the curious ones.

    `step` and `train` have the signatures of `private_gradient` and `train_private`. The patients are at one hospital,
    the others add noise alone: what else they add, the attacker subtracts.
    """

    hospitals: int
    threshold: int
    curious: int

    def share(self, *, clip_norm: float, noise_multiplier: float, parameters: int) -> NoiseShare:
        """The grid and noise of one hospital."""
        return share_plan(
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            hospitals=self.hospitals,
            threshold=self.threshold,
            curious=self.curious,
            parameters=parameters,
        )

    def deviation(self, share: NoiseShare) -> float:
        """Of their noise on one step's sum, the rounding of the gradients included, in clip norms."""
        return float(((self.threshold - self.curious) * DEVIATION**2 + 1 / 12) ** 0.5 / share.clip_steps)

    def step(
        self,
        head: nn.Module,
        *,
        inputs: Tensor,
        labels: Tensor,
        patients_drawn: Tensor | Sequence[Tensor],
        clip_norm: float,
        noise_multiplier: float,
        expected_batch: float,
        noise: NoiseSource,
        precision: str = "float32",
        augment: Callable[[Tensor], Tensor] | None = None,
        loss: str = "cross_entropy",
    ) -> dict[str, Tensor]:
        """One step's sum, from the integers that the honest hospitals send."""
        gradient = clipped_gradient_sum(
            head,
            inputs=inputs,
            labels=labels,
            patients_drawn=patients_drawn,
            clip_norm=clip_norm,
            precision=precision,
            augment=augment,
            loss=loss,
        )
        if noise_multiplier == 0:
            return {name: value / expected_batch for name, value in gradient.items()}
        sizes = [value.numel() for value in gradient.values()]
        share = self.share(clip_norm=clip_norm, noise_multiplier=noise_multiplier, parameters=sum(sizes))
        exact = torch.cat([value.flatten() for value in gradient.values()]).double().numpy()
        words = share.words(exact, noise=noise)
        for _ in range(self.threshold - self.curious - 1):
            words += share.words(np.zeros_like(exact), noise=noise)
        seen = torch.from_numpy(words.view(np.int32) * (share.grid / expected_batch)).float()
        parts = torch.split(seen, sizes)
        return {name: part.view_as(gradient[name]) for name, part in zip(gradient, parts, strict=True)}

    def train(self, head: nn.Module, **settings: Any) -> None:
        """As many steps, each of which moves the model as the coordinator moves it in a round."""
        train_private(head, release=self.step, **settings)
