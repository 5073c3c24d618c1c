"""Differentially private training: the unit is the patient, and `private_gradient` is the only release."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from primia.privacy.noise import NoiseSource
from primia.training.augment import Change, changed
from primia.training.clipped_gradients import clip_and_add, clipped_sum
from primia.training.patient_gradients import Written

# Images whose activations are held at a time.
_MOST_ROWS = 64
# Gradient values that are written out at a time, 1 GiB in float32: of a ResNet-18 those of 24 patients.
_MOST_VALUES = 2**28
# Pixels with a label of their own at a time: a network that segments holds dozens of maps as large
# as its images, so that these are about 1 GiB.
_MOST_PIXELS = 2**18
_GRID_BITS = 20  # of the noise's deviation that are released


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
    precision: str = "float32",
    views: int = 1,
    augment: Change | None = None,
    loss: str = "cross_entropy",
    release: Callable[..., dict[str, Tensor]] | None = None,
) -> None:
    """DP-SGD (Abadi et al. 2016, algorithm 1) over patients: `head` is trained in place.

    Each step draws every patient independently with probability `sampling_rate`, and `views` images of each drawn
    patient uniformly, with replacement. Adding or removing one patient with all images changes a step's sum by at most
    `clip_norm`; what is spent is `Release(sampling_rate, noise_multiplier, steps)`.

    Args:
        head: the learned part of a `Network`; its modules must treat each sample on its own.
        inputs: (images, ...) what the front makes of the standardised images.
        labels: (images,), or masks (images, *spatial), of integers.
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
        precision: `float32`, or `bfloat16` for mixed precision.
        views: how many images are drawn of each drawn patient, ≥ 1, the same ones perhaps more than once; the mean
            gradient of a patient's views is clipped, so they cost no privacy (augmentation multiplicity, De et al.
            2022, over a patient's images as well).
        augment: changes each row of a batch at random on its own: maps inputs to inputs, or with masks inputs and masks
            to both.
        loss: of `primia.training.objective.LOSSES`.
        release: of a step's gradient, in place of `private_gradient` and called like it, as where noise is in shares.

    Raises:
        PrivacyError: a layer mixes samples, or its gradients cannot be had patient by patient.
    """
    index = index_patients(patients)
    parameters = dict(head.named_parameters())
    start = {name: weight.detach().clone() for name, weight in parameters.items()} if proximal else {}
    for _ in range(steps):
        gradient = (release or private_gradient)(
            head,
            inputs=inputs,
            labels=labels,
            patients_drawn=draw_patients(index, sampling_rate=sampling_rate, views=views, noise=noise),
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            expected_batch=expected_batch,
            noise=noise,
            precision=precision,
            augment=augment,
            loss=loss,
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
    precision: str = "float32",
    augment: Change | None = None,
    loss: str = "cross_entropy",
) -> dict[str, Tensor]:
    """Release one noisy gradient of the loss: clip per patient, sum, add noise, divide.

    Noise of standard deviation `noise_multiplier * clip_norm` is added to every coordinate of the sum, also when no
    patient was drawn.

    Args:
        head: the learned part of a `Network`; left as it was.
        inputs: (images, ...) what the front makes of the standardised images.
        labels: (images,), or masks (images, *spatial), of integers.
        patients_drawn: image indices of each drawn patient, (patients, views), or one of each, (patients,).
        clip_norm: largest L2 norm of one patient's gradient over all weights, > 0.
        noise_multiplier: ≥ 0; 0 is for attacks on an undefended model and adds nothing.
        expected_batch: what the sum is divided by, > 0, never the number of patients drawn.
        noise: of the noise.
        precision: as in `train_private`, like `augment` and `loss`.
        augment: of the views.
        loss: of each image.

    Returns:
        Gradient by parameter name, float32, in the parameters' shapes.

    Raises:
        PrivacyError: a layer mixes samples, or its gradients cannot be had patient by patient.
    """
    assert noise_multiplier >= 0 and expected_batch > 0
    gradient = clipped_gradient_sum(
        head,
        inputs=inputs,
        labels=labels,
        patients_drawn=patients_drawn,
        clip_norm=clip_norm,
        augment=augment,
        precision=precision,
        loss=loss,
    )
    for value in gradient.values():
        if noise_multiplier > 0:
            value.copy_(_with_noise(value, deviation=noise_multiplier * clip_norm, noise=noise))
        value.div_(expected_batch)
    return gradient


def _with_noise(value: Tensor, *, deviation: float, noise: NoiseSource) -> Tensor:
    """Add noise in float64 and round the result to a power of two about a millionth of the deviation.

    In float32 the noise's own gaps would show what was added to it (Mironov 2012); a grid that depends on nothing
    private makes the release the rounding of a value that is as good as continuous.
    """
    step = 2.0 ** (math.floor(math.log2(deviation)) - _GRID_BITS)
    noisy = value.double() + noise.normal(value.shape).double() * deviation
    return noisy.div_(step).round_().mul_(step)


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


def draw_patients(index: PatientIndex, *, sampling_rate: float, noise: NoiseSource, views: int = 1) -> Tensor:
    """Poisson sample: each patient with probability `sampling_rate`, and `views` of its images; (drawn, views) indices.

    The images of a drawn patient are drawn uniformly, with replacement.
    """
    assert 0 < sampling_rate <= 1 and views >= 1
    drawn = noise.uniform(len(index.count)) < sampling_rate
    first, count = index.first[drawn, None], index.count[drawn, None]
    return index.images[first + (noise.uniform(len(count) * views).view(-1, views) * count).long()]


def clip_and_sum(samples: dict[str, Tensor], *, clip_norm: float) -> dict[str, Tensor]:
    """Scale each patient's gradient to an L2 norm of at most `clip_norm` over all weights, and add them up.

    Args:
        samples: by parameter name, (patients, *shape) float32.
        clip_norm: > 0.

    Returns:
        By parameter name, shape of the parameter. A gradient that is not finite counts as zero: it has no norm to clip,
        and would otherwise show in every released coordinate.
    """
    return clip_and_add({name: Written(sample) for name, sample in samples.items()}, clip_norm=clip_norm)


def rows_at_a_time(head: nn.Module, *, pixels: int = 1) -> int:
    """How many images go through `head` at a time, so that memory stays bounded; the sum is the same up to rounding.

    `pixels` is how many labels an image has: 1, or one per pixel.
    """
    parameters = sum(weight.numel() for weight in head.parameters())
    return max(1, min(_MOST_ROWS, _MOST_VALUES // max(1, parameters), _MOST_PIXELS // max(1, pixels)))


def clipped_gradient_sum(
    head: nn.Module,
    *,
    inputs: Tensor,
    labels: Tensor,
    patients_drawn: Tensor | Sequence[Tensor],
    clip_norm: float,
    precision: str = "float32",
    augment: Change | None = None,
    loss: str = "cross_entropy",
) -> dict[str, Tensor]:
    """Sum of the clipped gradients of the patients drawn, without noise: private only if noise is added elsewhere.

    Arguments, result and errors are those of `private_gradient`.
    """
    assert clip_norm > 0
    drawn = torch.as_tensor(patients_drawn, dtype=torch.int64)
    drawn = drawn.view(len(drawn), -1) if len(drawn) else drawn.view(0, 1)
    views, rows_fit = drawn.shape[1], rows_at_a_time(head, pixels=math.prod(labels.shape[1:]))
    total: dict[str, Tensor] = {}
    for part in torch.split(drawn, max(1, rows_fit // views)):
        if len(part) == 0:
            continue
        images = part.flatten()
        rows, truth = changed(augment, inputs[images].float(), labels[images])
        clipped = clipped_sum(
            head,
            rows=rows,
            labels=truth,
            loss=loss,
            clip_norm=clip_norm,
            views=views,
            precision=precision,
        )
        for name, value in clipped.items():
            total[name] = total[name].add_(value) if name in total else value
    return total or {name: torch.zeros_like(weight.detach()) for name, weight in head.named_parameters()}
