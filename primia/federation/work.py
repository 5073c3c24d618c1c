"""What a site computes on its own images, before anything is quantised or masked."""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from primia.data.image_set import ImageSet
from primia.federation.plan import Plan
from primia.federation.weights import Floats, head_vector, load_head
from primia.models.networks import build_network
from primia.privacy.noise import NoiseSource
from primia.training.plain import train_plain
from primia.training.private import train_private

_BATCH = 128  # images through the front, or the head at evaluation, at a time


class LocalWork:
    """The network of a plan and one site's images; front features are computed once and kept in memory."""

    def __init__(self, plan: Plan, *, name: str, train: ImageSet, validation: ImageSet) -> None:
        torch.set_num_threads(plan.training.threads)
        self._plan, self._name = plan, name
        self._train, self._validation = train, validation
        self._network = build_network(
            plan.architecture, classes=len(plan.classes), pixels=plan.pixels, seed=plan.model_seed
        )
        self.parameters = len(head_vector(self._network.head))
        self._standard: tuple[float, float] | None = None
        self._inputs: dict[str, Tensor] = {}

    def train(self, model: Floats, *, mean: float, std: float, round: int, noise: NoiseSource) -> NDArray[np.float64]:
        """Change of the weights, (parameters,), by one round of local training from `model`."""
        plan, head = self._plan, self._network.head
        load_head(head, model)
        inputs, labels = self._features("train", mean=mean, std=std), self._train.labels
        head.train()
        if plan.privacy is None:
            train_plain(
                head,
                inputs=inputs,
                labels=labels,
                epochs=plan.training.local_epochs,
                batch_size=plan.training.batch_size,
                learning_rate=plan.training.learning_rate,
                weight_decay=plan.training.weight_decay,
                augment=plan.training.augment and isinstance(self._network.front, nn.Identity),
                precision=plan.training.precision,
                seed=_seed(plan.training.seed, round=round, site=self._name),
            )
        else:
            train_private(
                head,
                inputs=inputs,
                labels=labels,
                patients=self._train.patients,
                clip_norm=plan.privacy.clip_norm,
                noise_multiplier=plan.privacy.noise_multiplier,
                sampling_rate=plan.privacy.sampling_rate,
                expected_batch=plan.privacy.expected_batch,
                steps=plan.privacy.local_steps,
                learning_rate=plan.privacy.learning_rate,
                noise=noise,
            )
        return head_vector(head).astype(np.float64) - model.astype(np.float64)

    def validate(self, model: Floats, *, mean: float, std: float) -> Tensor:
        """Logits of `model` on the validation images, (images, classes) float32."""
        head = self._network.head
        load_head(head, model)
        head.eval()
        inputs = self._features("validation", mean=mean, std=std)
        with torch.no_grad():
            return torch.cat([head(batch).to(torch.float32) for batch in torch.split(inputs, _BATCH)])

    def _features(self, split: str, *, mean: float, std: float) -> Tensor:
        if self._standard != (mean, std):
            self._standard, self._inputs = (mean, std), {}
        if split not in self._inputs:
            images = (self._train if split == "train" else self._validation).images
            with torch.no_grad():
                self._inputs[split] = torch.cat(
                    [
                        self._network.front((batch.to(torch.float32) - mean) / std)
                        for batch in torch.split(images, _BATCH)
                    ]
                )
        return self._inputs[split]


def _seed(seed: int, *, round: int, site: str) -> int:
    """Seed of one site's local training in one round, below 2^32."""
    digest = hashlib.sha256(f"primia local training\0{seed}\0{round}\0{site}".encode()).digest()
    return int.from_bytes(digest[:4])
