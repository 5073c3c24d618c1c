"""Teaching a polynomial network what a released model answers: the loss, and the loop of one site."""

import math
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.sgd import sgd

from primia.models.polynomial import PolynomialNetwork
from primia.training.plain import batches

TEMPERATURE = 2.0
GRADIENT_NORM = 1.0
COMFORTABLE = 4.0  # inputs of a quadratic beyond this are penalised: squares of squares grow fast
RANGE_PENALTY = 1e-2


def distillation_loss(
    network: PolynomialNetwork, inputs: Tensor, targets: Tensor, *, spread: float, unit: float = 1.0
) -> Tensor:
    """How far the student is from its teacher (Hinton et al. 2015), and from inputs its quadratics can bear.

    The mean squared error of centred logits in units of `spread`, plus the KL divergence at temperature 2, plus a
    penalty on inputs of the quadratics beyond 4.

    Args:
        network: the student.
        inputs: (n, channels · height · width) as `PolynomialNetwork.inputs` gives them.
        targets: (n, classes), the teacher's logits.
        spread: standard deviation of the teacher's centred logits.
        unit: what one of the network's own logits stands for, while its last layer is still to be scaled by that.
    """
    *quadratic_inputs, logits = network.stages(inputs)
    logits = unit * logits
    centred = targets - targets.mean(dim=1, keepdim=True)
    divergence = functional.kl_div(
        functional.log_softmax(logits / TEMPERATURE, dim=1),
        functional.log_softmax(targets / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    loss = functional.mse_loss(logits / spread, centred / spread) + TEMPERATURE**2 * divergence
    for stage in quadratic_inputs:
        loss = loss + RANGE_PENALTY * functional.relu(stage.abs() - COMFORTABLE).square().mean()
    return loss


def train_student(
    network: PolynomialNetwork,
    *,
    inputs: Tensor,
    targets: Tensor,
    spread: float,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    steps: int | None = None,
) -> float:
    """Train a student without batch-norm in place, by SGD with momentum 0.9 and clipped gradients.

    Equal arguments and thread counts give equal weights, bit for bit. No state is left but the weights.

    Args:
        network: see `primia.models.students.fold_normalisation`.
        inputs: (rows, channels · height · width) of any float type, as `PolynomialNetwork.inputs` gives them; several
            variants of an image are several rows.
        targets: (rows, classes) float32, the teacher's logits of the very variants.
        spread: standard deviation of the teacher's centred logits; the same at all sites.
        epochs: passes over all rows, each in a new order.
        batch_size: rows per step; the last batch of a pass may be smaller.
        learning_rate: of SGD.
        seed: of the order, below 2^32.
        steps: so many batches instead of `epochs`.

    Returns:
        The mean loss over all rows of all batches, each before the step that used it.
    """
    assert len(inputs) == len(targets) > 0 and epochs >= 1 and spread > 0
    network.train()
    weights: list[Tensor] = list(network.parameters())
    momenta: list[Tensor | None] = [None] * len(weights)
    total, seen = 0.0, 0
    taken = steps or epochs * math.ceil(len(inputs) / batch_size)
    for chosen in islice(batches(len(inputs), batch_size=batch_size, seed=seed), taken):
        loss = distillation_loss(network, inputs[chosen].float(), targets[chosen], spread=spread)
        gradients = list(torch.autograd.grad(loss, weights))
        length = torch.stack([gradient.norm() for gradient in gradients]).norm()
        # The square of a square has no slope that a fixed learning rate suits everywhere.
        shrink = (GRADIENT_NORM / length.clamp_min(1e-12)).clamp_max(1.0)
        with torch.no_grad():
            for gradient in gradients:
                gradient.mul_(shrink)
            # What torch.optim.SGD calls; see train_plain.
            sgd(
                weights,
                gradients,
                momenta,
                foreach=False,
                lr=learning_rate,
                momentum=0.9,
                weight_decay=0.0,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
        total += loss.item() * len(chosen)
        seen += len(chosen)
    network.eval()
    return total / seen
