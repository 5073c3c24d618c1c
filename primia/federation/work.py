"""What a site computes on its own images, before anything is quantised or masked."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from primia.data.image_set import ImageSet
from primia.federation.local_normalisation import LocalNormalisation, normalisation_weights
from primia.federation.plan import Plan
from primia.federation.weights import Floats, head_vector, joined_by_name, load_head
from primia.models.networks import at_a_time
from primia.privacy.noise import NoiseSource
from primia.secagg.quantise import within_norm
from primia.training.objective import learning_rate_of
from primia.training.plain import train_plain
from primia.training.private import clipped_gradient_sum, draw_patients, index_patients, train_private

_BATCH = 128  # images through the front, or the head at evaluation, at a time


@dataclass(frozen=True)
class LocalResult:
    """What one round of local training gives.

    `delta` is the change of the weights, (parameters,), of L2 norm at most `secure_aggregation.norm_bound`; `shrunk`
    says whether it had to be scaled down to that. `loss` is the mean training loss in nats, and 0 with differential
    privacy, which does not cover it.
    """

    delta: NDArray[np.float64]
    loss: float
    shrunk: bool


class LocalWork:
    """The network of a plan and one site's images; front features are computed once and kept in memory.

    With `training.local_normalisation` the site keeps its own normalisation layers from round to round (FedBN, Li et
    al. 2021): every round it trains from the global model with its own layers in place of the global ones, since
    scanners differ most in what these layers take out. Unlike FedBN's sites it still sends how far its own layers are
    from the global ones, so that the published model carries their mean: a hospital outside has none of its own.
    Validation is of the published model, with the mean layers.
    """

    def __init__(
        self, plan: Plan, *, name: str, train: ImageSet, validation: ImageSet, state: Path | None = None
    ) -> None:
        """`state` is the site's folder, for what must outlive the process; without it own layers stay in memory.

        Raises:
            DataError: the file of the site's own normalisation layers is damaged.
        """
        torch.set_num_threads(plan.training.threads)
        self._plan, self._name = plan, name
        self._train, self._validation = train, validation
        self._network = plan.network()
        self.parameters = len(head_vector(self._network.head))
        self._standard: tuple[float, float] | None = None
        self._inputs: dict[str, Tensor] = {}
        self._own: LocalNormalisation | None = None
        if plan.training.local_normalisation:
            path = None if state is None else state / "normalisation" / f"{plan.run}.safetensors"
            self._own, self._is_own = LocalNormalisation(path), normalisation_weights(self._network.head)

    def train(
        self,
        model: Floats,
        *,
        mean: float,
        std: float,
        round: int,
        noise: NoiseSource,
        class_weights: tuple[float, ...] | None = None,
    ) -> LocalResult:
        """One round of local training from `model`, (parameters,).

        Equal arguments give equal bits, also in a restarted process, as long as `noise` does.

        Args:
            model: the global model.
            mean: of all sites' training pixels.
            std: of all sites' training pixels.
            round: counted from 1.
            noise: of differential privacy; unused without it.
            class_weights: of the loss, one per class; None without `training.class_weights`; unused with differential
                privacy, like MixUp, which the configuration refuses there.
        """
        head, start = self._network.head, model
        own = None if self._own is None else self._own.before(round)
        if own is not None:
            start = model.copy()
            start[self._is_own] = own
        load_head(head, start)
        inputs = self._features("train", mean=mean, std=std)
        head.train()
        loss = self._descend(inputs, round=round, noise=noise, class_weights=class_weights)
        after = head_vector(head)
        if self._own is not None:
            self._own.keep(round, after[self._is_own])
        delta, shrunk = within_norm(
            after.astype(np.float64) - model.astype(np.float64), bound=self._plan.secure_aggregation.norm_bound
        )
        return LocalResult(delta=delta, loss=loss, shrunk=shrunk)

    def gradient(self, model: Floats, *, mean: float, std: float, noise: NoiseSource) -> NDArray[np.float64]:
        """Sum of the clipped gradients of a Poisson sample of the training patients at `model`, both (parameters,).

        It holds no noise yet: the caller adds a share of it and lets only the sum over all hospitals be seen.

        Args:
            model: the global model.
            mean: of all sites' training pixels.
            std: of all sites' training pixels.
            noise: of the sampling.
        """
        privacy, head = self._plan.privacy, self._network.head
        assert privacy is not None
        load_head(head, model)
        inputs = self._features("train", mean=mean, std=std)
        head.train()
        gradient = clipped_gradient_sum(
            head,
            inputs=inputs,
            labels=self._train.labels,
            patients_drawn=draw_patients(
                index_patients(self._train.patients),
                sampling_rate=privacy.sampling_rate,
                views=privacy.views,
                noise=noise,
            ),
            clip_norm=privacy.clip_norm,
            loss=self._plan.training.loss,
            precision=self._plan.training.precision,
        )
        return joined_by_name(gradient).astype(np.float64)

    def _descend(
        self, inputs: Tensor, *, round: int, noise: NoiseSource, class_weights: tuple[float, ...] | None
    ) -> float:
        """Train the head in place; the mean loss, or 0 with differential privacy."""
        plan, settings, head = self._plan, self._plan.training, self._network.head
        if plan.privacy is None:
            return train_plain(
                head,
                inputs=inputs,
                labels=self._train.labels,
                loss=settings.loss,
                epochs=settings.local_epochs,
                steps=settings.local_steps,
                batch_size=settings.batch_size,
                learning_rate=self._scheduled(settings.learning_rate, round),
                weight_decay=settings.weight_decay,
                proximal=settings.proximal,
                class_weights=class_weights,
                augment=settings.augment and isinstance(self._network.front, nn.Identity),
                mixup=settings.mixup,
                precision=settings.precision,
                seed=local_seed(settings.seed, round=round, site=self._name),
            )
        train_private(
            head,
            inputs=inputs,
            labels=self._train.labels,
            patients=self._train.patients,
            loss=settings.loss,
            clip_norm=plan.privacy.clip_norm,
            noise_multiplier=plan.privacy.noise_multiplier,
            sampling_rate=plan.privacy.sampling_rate,
            expected_batch=plan.privacy.expected_batch,
            steps=plan.privacy.local_steps,
            views=plan.privacy.views,
            learning_rate=self._scheduled(plan.privacy.learning_rate, round),
            proximal=settings.proximal,
            precision=settings.precision,
            noise=noise,
        )
        return 0.0

    def _scheduled(self, base: float, round: int) -> float:
        return learning_rate_of(base, self._plan.training.schedule, round=round, rounds=self._plan.rounds)

    def validate(self, model: Floats, *, mean: float, std: float) -> Tensor:
        """Logits of `model` on the validation images, (images, classes, ...) float32."""
        head = self._network.head
        load_head(head, model)
        head.eval()
        inputs = self._features("validation", mean=mean, std=std)
        with torch.no_grad():
            return torch.cat([head(batch.float()).float() for batch in torch.split(inputs, at_a_time(inputs, _BATCH))])

    def _features(self, split: str, *, mean: float, std: float) -> Tensor:
        if self._standard != (mean, std):
            self._standard, self._inputs = (mean, std), {}
        if split not in self._inputs:
            images = (self._train if split == "train" else self._validation).images
            with torch.no_grad():
                self._inputs[split] = torch.cat(
                    [
                        self._network.front((batch.to(torch.float32) - mean) / std)
                        for batch in torch.split(images, at_a_time(images, _BATCH))
                    ]
                )
        return self._inputs[split]


def local_seed(seed: int, *, round: int, site: str) -> int:
    """Seed of one site's local training in one round, below 2^32."""
    digest = hashlib.sha256(f"primia local training\0{seed}\0{round}\0{site}".encode()).digest()
    return int.from_bytes(digest[:4])
