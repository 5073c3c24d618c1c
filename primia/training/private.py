"""Differentially private training: the unit is the patient, and `private_gradient` is the only release."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.privacy.noise import NoiseSource

# Per-sample gradients held at a time: 2^22 float32 values are 16 MiB, few enough for the processor's cache.
_VALUES_AT_A_TIME = 2**22


def train_private(
    head: nn.Module,
    *,
    inputs: Tensor,
    labels: Tensor,
    patients: Tensor,
    clip_norm: float,
    noise_multiplier: float,
    sampling_rate: float,
    expected_batch: float,
    steps: int,
    learning_rate: float,
    noise: NoiseSource,
    proximal: float = 0.0,
) -> None:
    """DP-SGD (Abadi et al. 2016, algorithm 1) over patients: `head` is trained in place.

    Each step draws every patient independently with probability `sampling_rate`, and one image of each drawn patient
    uniformly. Adding or removing one patient with all images changes a step's sum by at most `clip_norm`; what is
    spent is `Release(sampling_rate, noise_multiplier, steps)`.

    Args:
        head: the learned part of a `Classifier`; its modules must treat each sample on its own.
        inputs: (images, ...) what the front makes of the standardised images.
        labels: (images,) int64.
        patients: (images,) int64, equal for images of one patient.
        clip_norm: largest L2 norm of one patient's gradient over all weights, > 0.
        noise_multiplier: standard deviation of the noise in units of `clip_norm`, ≥ 0 (0 protects nobody).
        sampling_rate: in (0, 1].
        expected_batch: what sums are divided by, a public number such as `sampling_rate` times the rounded number of
            patients; the true number is itself private.
        steps: how many.
        learning_rate: of plain SGD, without momentum.
        noise: of the noise and of the sampling.
        proximal: FedProx's μ (Li et al. 2020): pulls the weights to where they started. It looks at no data and is
            added after the noise, so it costs no privacy.
    """
    index = index_patients(patients)
    parameters = dict(head.named_parameters())
    start = {name: weight.detach().clone() for name, weight in parameters.items()} if proximal else {}
    for _ in range(steps):
        gradient = private_gradient(
            head,
            inputs=inputs,
            labels=labels,
            patients_drawn=draw_patients(index, sampling_rate=sampling_rate, noise=noise),
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            expected_batch=expected_batch,
            noise=noise,
        )
        with torch.no_grad():
            for name, value in gradient.items():
                if proximal:
                    value.add_(parameters[name] - start[name], alpha=proximal)
                parameters[name].sub_(value, alpha=learning_rate)


def private_gradient(
    head: nn.Module,
    *,
    inputs: Tensor,
    labels: Tensor,
    patients_drawn: Tensor | Sequence[Tensor],
    clip_norm: float,
    noise_multiplier: float,
    expected_batch: float,
    noise: NoiseSource,
) -> dict[str, Tensor]:
    """Release one noisy gradient of the cross-entropy: clip per patient, sum, add noise, divide.

    The gradients of single patients come from Opacus. Noise of standard deviation `noise_multiplier * clip_norm` is
    added to every coordinate of the sum, also when no patient was drawn.

    Args:
        head: the learned part of a `Classifier`; left as it was.
        inputs: (images, ...) what the front makes of the standardised images.
        labels: (images,) int64.
        patients_drawn: one image index for each drawn patient, (patients,) or a sequence of single indices.
        clip_norm: largest L2 norm of one patient's gradient over all weights, > 0.
        noise_multiplier: ≥ 0; 0 is for attacks on an undefended model and adds nothing.
        expected_batch: what the sum is divided by, > 0, never the number of patients drawn.
        noise: of the noise.

    Returns:
        Gradient by parameter name, float32, in the parameters' shapes.
    """
    assert clip_norm > 0 and noise_multiplier >= 0 and expected_batch > 0
    indices = torch.as_tensor([int(image) for image in patients_drawn], dtype=torch.int64)
    gradient = _clipped_sum(head, inputs=inputs, labels=labels, indices=indices, clip_norm=clip_norm)
    for value in gradient.values():
        if noise_multiplier > 0:
            value.add_(noise.normal(value.shape), alpha=noise_multiplier * clip_norm)
        value.div_(expected_batch)
    return gradient


@dataclass(frozen=True)
class PatientIndex:
    """Images grouped by patient: patient i owns `images[first[i] : first[i] + count[i]]`."""

    images: Tensor  # (images,) int64
    first: Tensor  # (patients,) int64
    count: Tensor  # (patients,) int64


def index_patients(patients: Tensor) -> PatientIndex:
    """Group images by patient; patients is (images,) int64 and numbers may be missing."""
    _, count = torch.unique(patients, return_counts=True)
    return PatientIndex(
        images=torch.argsort(patients, stable=True), first=torch.cumsum(count, dim=0) - count, count=count
    )


def draw_patients(index: PatientIndex, *, sampling_rate: float, noise: NoiseSource) -> Tensor:
    """Poisson sample: each patient with probability `sampling_rate`, one uniformly drawn image of each, (drawn,)."""
    assert 0 < sampling_rate <= 1
    drawn = noise.uniform(len(index.count)) < sampling_rate
    first, count = index.first[drawn], index.count[drawn]
    return index.images[first + (noise.uniform(len(count)) * count).long()]


def _clipped_sum(
    head: nn.Module, *, inputs: Tensor, labels: Tensor, indices: Tensor, clip_norm: float
) -> dict[str, Tensor]:
    parameters = dict(head.named_parameters())
    assert all(parameter.requires_grad for parameter in parameters.values())
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    chunk = max(1, _VALUES_AT_A_TIME // sum(parameter.numel() for parameter in parameters.values()))
    with _per_sample_gradients(head):
        for part in torch.split(indices, chunk):
            if len(part) == 0:
                continue
            loss = functional.cross_entropy(head(inputs[part].float()), labels[part], reduction="sum")
            torch.autograd.backward(loss)
            samples = {name: cast(Any, parameter).grad_sample for name, parameter in parameters.items()}
            for name, value in clip_and_sum(samples, clip_norm=clip_norm).items():
                total[name] += value
            for parameter in parameters.values():
                parameter.grad = cast(Any, parameter).grad_sample = None
    return total


def clip_and_sum(samples: dict[str, Tensor], *, clip_norm: float) -> dict[str, Tensor]:
    """Scale each patient's gradient to an L2 norm of at most `clip_norm` over all weights, and add them up.

    Args:
        samples: by parameter name, (patients, *shape) float32.
        clip_norm: > 0.

    Returns:
        By parameter name, shape of the parameter. A gradient that is not finite counts as zero: it has no norm to clip,
        and would otherwise show in every released coordinate.
    """
    each = [torch.linalg.vector_norm(sample.flatten(1), dim=1) for sample in samples.values()]
    norms = torch.linalg.vector_norm(torch.stack(each).double(), dim=0)  # (patients,)
    # Rounding in float32 must not lift a norm above the bound that the accountant was told.
    scales = (clip_norm * (1 - 1e-5) / norms.clamp_min(1e-30)).clamp_max(1.0)
    finite = torch.isfinite(norms)
    if not finite.all():
        samples = {name: sample[finite] for name, sample in samples.items()}
    weights = scales[finite].float()
    return {name: torch.tensordot(weights, sample, dims=1) for name, sample in samples.items()}


@contextmanager
def _per_sample_gradients(head: nn.Module) -> Iterator[None]:
    """Let Opacus keep each sample's gradient in `grad_sample` of every parameter, until the block ends."""
    from opacus import GradSampleModule

    was_training = head.training
    head.train()  # Opacus looks at modules in training mode only
    wrapped = GradSampleModule(head, loss_reduction="sum", strict=True)
    try:
        with warnings.catch_warnings():
            # The first layer's input is data; it needs no gradient, and Opacus does not use one.
            warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
            yield
    finally:
        wrapped.to_standard_module()
        head.train(was_training)
