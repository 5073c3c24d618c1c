"""Teaching a polynomial network what the federation's model knows, on images that are nobody's."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from primia.config import Encryption
from primia.errors import EncryptionError
from primia.models.polynomial import PolynomialNetwork, shrink
from primia.models.students import build_student
from primia.training.augment import CHANGED_COPIES, changed_copies
from primia.training.distilled import GRADIENT_NORM, distillation_loss

BATCH = 128
WEIGHT_DECAY = 1e-2
WARM_UP = 0.1  # part of the steps in which the learning rate rises

Teacher = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Lessons:
    """What a teacher said about images and changed copies of them.

    images: (rows, 1, p, p) float16 in [0, 1], the copies after the originals; logits: (rows, classes) float32; spread:
    standard deviation of the centred logits, the unit of the loss.
    """

    images: Tensor
    logits: Tensor
    spread: float


def lessons_from(teacher_logits: Teacher, images: Tensor, *, seed: int) -> Lessons:
    """Ask a teacher about images and three changed copies of each.

    Args:
        teacher_logits: (n, 1, p, p) in [0, 1] -> (n, classes).
        images: (n, 1, p, p) in [0, 1], any float type; no patient's image needs to be among them.
        seed: of the changes.

    Raises:
        EncryptionError: too few images, or a teacher without a finite answer.
    """
    if len(images) < 2:
        raise EncryptionError(
            f"Distillation got {len(images)} image(s), but needs at least 2; raise encryption.phantom_patients."
        )
    mean, std = float(images.float().mean()), max(float(images.float().std()), 1e-6)
    rows = torch.cat([images.half(), changed_copies(images, mean=mean, std=std, seed=seed)])
    with torch.no_grad():
        logits = torch.cat([teacher_logits(batch).float() for batch in torch.split(rows, BATCH)])
    if not bool(torch.isfinite(logits).all()):
        raise EncryptionError("The teacher's logits are not finite; evaluate the federation's model before encrypting.")
    centred = logits - logits.mean(dim=1, keepdim=True)
    return Lessons(images=rows, logits=logits, spread=float(centred.std().clamp_min(1e-6)))


def distil(
    lessons: Lessons,
    *,
    settings: Encryption,
    on_epoch: Callable[[int, float], None] | None = None,
) -> PolynomialNetwork:
    """Distil a teacher into a student with batch-norms, by AdamW (see `distillation_loss`).

    An epoch sees as many rows as there are images, drawn from originals and changed copies. Equal seed, lessons and
    threads give equal weights.

    Args:
        lessons: of `lessons_from`.
        settings: `encryption` of params.yaml.
        on_epoch: called with the epoch (from 1) and its mean loss.

    Returns:
        The network in eval mode, with its largest inputs of a quadratic and logits recorded over all lessons.
    """
    network = build_student(pixels=settings.pixels, classes=lessons.logits.shape[1], seed=settings.seed)
    originals = lessons.images[: len(lessons.images) // (1 + CHANGED_COPIES)]
    small = shrink(originals, pixels=settings.pixels)
    network.mean.copy_(small.mean())
    network.std.copy_(small.std().clamp_min(1e-6))
    inputs = inputs_of(network, lessons.images)
    _train(network, inputs, lessons, settings=settings, on_epoch=on_epoch)
    with torch.no_grad():  # trained in units of the spread, which suits a learning rate; back to the teacher's own
        for parameter in network.body[-1].parameters():
            parameter.mul_(lessons.spread)
    network.record_ranges(inputs)
    return network


def inputs_of(network: PolynomialNetwork, images: Tensor) -> Tensor:
    """`PolynomialNetwork.inputs` of many images, batch by batch: (n, channels · height · width) float32."""
    return torch.cat([network.inputs(batch) for batch in torch.split(images, BATCH)])


def _train(
    network: PolynomialNetwork,
    inputs: Tensor,
    lessons: Lessons,
    *,
    settings: Encryption,
    on_epoch: Callable[[int, float], None] | None,
) -> None:
    copies = 1 + CHANGED_COPIES
    count = len(inputs) // copies
    batches = math.ceil(count / BATCH)  # of near-equal size: batch-norm cannot take a single image
    generator = torch.Generator().manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    steps = settings.epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / (WARM_UP * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    network.train()
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(count, generator=generator)
        copy = torch.randint(copies, (count,), generator=generator)
        total = 0.0
        for chosen in order.tensor_split(batches):
            rows = copy[chosen] * count + chosen
            loss = distillation_loss(
                network, inputs[rows], lessons.logits[rows], spread=lessons.spread, unit=lessons.spread
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if on_epoch is not None:
            on_epoch(epoch, total / count)
    network.eval()
