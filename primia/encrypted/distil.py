"""Teaching a polynomial network what the federation's model knows, on images that are nobody's."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as functional
from torch import Tensor

from primia.config import Encryption
from primia.errors import EncryptionError
from primia.models.polynomial import PolynomialNetwork, dense_network, shrink

BATCH = 128
SHIFTED_COPIES = 3  # of each image; the teacher is asked about each copy, so shifts never make a wrong answer
TEMPERATURE = 2.0
WEIGHT_DECAY = 1e-2
GRADIENT_NORM = 1.0
COMFORTABLE = 4.0  # inputs of an activation beyond this are penalised: squares of squares grow fast
RANGE_PENALTY = 1e-2


def distil(
    teacher_logits: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    settings: Encryption,
    on_epoch: Callable[[int, float], None] | None = None,
) -> PolynomialNetwork:
    """Distil a teacher into a polynomial network (Hinton et al. 2015).

    The loss is the mean squared error of standardised logits, plus KL divergence at temperature 2, plus a penalty on
    large inputs of the activations. Equal seed, images and threads give equal weights.

    Args:
        teacher_logits: (n, 1, p, p) in [0, 1] -> (n, classes).
        images: (n, 1, p, p) in [0, 1], any float type; no patient's image needs to be among them.
        settings: `encryption` of params.yaml.
        on_epoch: called with the epoch (from 1) and its mean loss.

    Returns:
        The network in eval mode, with its largest activation inputs and logits recorded over all images and copies.

    Raises:
        EncryptionError: too few images, or a teacher without a finite answer.
    """
    if len(images) < 2:
        raise EncryptionError(
            f"Distillation got {len(images)} image(s), but needs at least 2; raise encryption.phantom_patients."
        )
    generator = torch.Generator().manual_seed(settings.seed)
    variants = [images.to(torch.float32)]
    variants += [_shifted(variants[0], generator=generator) for _ in range(SHIFTED_COPIES)]
    answers = torch.stack([_answers(teacher_logits, variant) for variant in variants])  # (variants, n, classes)
    targets = answers - answers.mean(dim=-1, keepdim=True)
    spread = float(targets.std().clamp_min(1e-6))
    targets = targets / spread

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = dense_network(settings.pixels, settings.hidden, answers.shape[-1])
    small = shrink(variants[0], pixels=settings.pixels)
    network.mean.copy_(small.mean())
    network.std.copy_(small.std().clamp_min(1e-6))
    inputs = torch.stack([network.inputs(variant) for variant in variants])  # (variants, n, pixels²)

    _train(network, inputs, targets, spread=spread, settings=settings, generator=generator, on_epoch=on_epoch)

    with torch.no_grad():  # back to the teacher's own scale
        for parameter in network.body[-1].parameters():
            parameter.mul_(spread)
    network.record_ranges(inputs.flatten(0, 1))
    return network


def _train(
    network: PolynomialNetwork,
    inputs: Tensor,
    targets: Tensor,
    *,
    spread: float,
    settings: Encryption,
    generator: torch.Generator,
    on_epoch: Callable[[int, float], None] | None,
) -> None:
    variants, count = inputs.shape[:2]
    batches = math.ceil(count / BATCH)  # of near-equal size: batch-norm cannot take a single image
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=settings.epochs * batches)
    network.train()
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(count, generator=generator)
        variant = torch.randint(variants, (count,), generator=generator)
        total = 0.0
        for chosen in order.tensor_split(batches):
            loss = _loss(network, inputs[variant[chosen], chosen], targets[variant[chosen], chosen], spread=spread)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(chosen)
        if on_epoch is not None:
            on_epoch(epoch, total / count)
    network.eval()


def _loss(network: PolynomialNetwork, inputs: Tensor, targets: Tensor, *, spread: float) -> Tensor:
    *activation_inputs, logits = network.stages(inputs)
    sharpness = spread / TEMPERATURE
    divergence = functional.kl_div(
        functional.log_softmax(logits * sharpness, dim=-1),
        functional.log_softmax(targets * sharpness, dim=-1),
        reduction="batchmean",
        log_target=True,
    )
    excess = torch.stack([functional.relu(stage.abs() - COMFORTABLE).square().mean() for stage in activation_inputs])
    return functional.mse_loss(logits, targets) + TEMPERATURE**2 * divergence + RANGE_PENALTY * excess.sum()


@torch.no_grad()
def _answers(teacher_logits: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    answers = torch.cat([teacher_logits(batch).to(torch.float32) for batch in torch.split(images, BATCH)])
    if not bool(torch.isfinite(answers).all()):
        raise EncryptionError("The teacher's logits are not finite; evaluate the federation's model before encrypting.")
    return answers


def _shifted(images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Each image (n, 1, p, p) moved by up to p/16 pixels along both axes, its edge repeated."""
    reach = max(1, images.shape[-1] // 16)
    pixels = images.shape[-1]
    wide = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    corners = torch.randint(2 * reach + 1, (len(images), 2), generator=generator).tolist()
    moved = [image[:, y : y + pixels, x : x + pixels] for image, (y, x) in zip(wide, corners, strict=True)]
    return torch.stack(moved)
