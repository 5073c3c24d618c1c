"""Training without differential privacy: stochastic gradient descent over a site's images."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.training.augment import augment_images


def train_plain(
    head: nn.Module,
    *,
    inputs: Tensor,
    labels: Tensor,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    augment: bool,
    precision: str,
    seed: int,
) -> float:
    """Train `head` in place with momentum 0.9 at a constant learning rate.

    Equal arguments and thread counts give equal weights, bit for bit.

    Args:
        head: the learned part of a `Classifier`; stays in float32.
        inputs: what the front makes of the standardised images, (images, ...); images themselves are (images, 1, p, p).
        labels: (images,) int64.
        epochs: passes over all images, each in a new order.
        batch_size: images per step; the last batch of a pass may be smaller.
        learning_rate: of SGD.
        weight_decay: of SGD, on every weight.
        augment: change the pose and exposure of images; features of a fixed front are taken as they are.
        precision: `float32`, or `bfloat16` for mixed precision with channels last.
        seed: of the order and the augmentation.

    Returns:
        The mean cross-entropy over all images of all passes, in nats, each before the step that used it.
    """
    assert len(inputs) == len(labels) > 0 and epochs >= 1 and precision in ("float32", "bfloat16")
    mixed = precision == "bfloat16"
    images = inputs.dim() == 4 and inputs.shape[1] == 1
    layout = torch.channels_last if mixed and images else torch.contiguous_format
    head.train()
    head.to(memory_format=layout)  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(head.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
    total = 0.0
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(inputs), generator=generator), batch_size):
            batch = inputs[chosen].float()
            if augment and images:
                batch = augment_images(batch, generator=generator)
            if images:
                batch = batch.contiguous(memory_format=layout)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                logits = head(batch)
            loss = functional.cross_entropy(logits.float(), labels[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(chosen)
    optimizer.zero_grad()
    head.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return total / (epochs * len(inputs))
