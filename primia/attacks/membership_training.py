"""Training of the models that a membership attack needs, by the code and with the settings of the hospitals."""

import copy

import torch
from torch import Tensor, nn

from primia.attacks.contract import Advance
from primia.attacks.scene import Declared, Scene
from primia.training.objective import balanced_weights, learning_rate_of
from primia.training.plain import train_plain

# Values of gradients that the training of one reference model may compute; a ResNet-18 has 11 million an image.
_MOST_VALUES = {"quick": 2**33, "standard": 2**35, "full": 2**50}
# What marks every pixel multiplies with its weights there, and has little else to do: as long as so many values.
_VALUES_OF_A_PIXEL = 8

# Of the models that learn a few patients by heart.
_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
_TRIED_STEPS = 30
_STEPS = 25  # at a time
_MOST_STEPS = 400
_MEMORISED = 0.03  # mean loss in nats


def rounds_of(scene: Scene) -> int:
    """Rounds in which the released model was trained."""
    declared = scene.declared
    return max(1, scene.released.round) if declared is None else declared.steps // declared.steps_per_round


def affordable_rounds(scene: Scene, *, patients: int, images: int) -> int:
    """Rounds in which a reference model is trained on so many patients and images: all, or what the budget allows."""
    declared, training = scene.declared, scene.training
    if declared is not None:
        gradients = declared.steps_per_round * declared.sampling_rate * patients * declared.views
    elif training.local_steps is not None:
        gradients = training.local_steps * training.batch_size
    else:
        gradients = training.local_epochs * images
    values = sum(weight.numel() for weight in scene.first.network.head.parameters())
    if scene.candidates.masks:
        values *= _VALUES_OF_A_PIXEL * scene.candidates.labels[0].numel()
    return max(1, min(rounds_of(scene), int(_MOST_VALUES[scene.budget.name] / (gradients * values))))


def train_as_declared(
    scene: Scene,
    *,
    inputs: Tensor,
    labels: Tensor,
    patients: Tensor,
    rounds: int,
    generator: torch.Generator,
    advance: Advance,
    defended: bool = True,
) -> nn.Module:
    """Train a model of one's own from the first weights, as a hospital on its own would.

    The undefended counterpart of a private training takes the same steps without noise. It clips all the same, which
    protects nobody by itself: the learning rate is made for clipped gradients. Those of the scattering network are 96
    long and clipped to 1; unclipped, the loss ends at 259 nats instead of 0.7, and no more patients are recognised.

    Args:
        scene: holds the code and the settings.
        inputs: (images, ...) what the head sees.
        labels: (images, ...) int64.
        patients: (images,) int64.
        rounds: of the training; fewer than declared only for a model that is not to be judged.
        generator: of the order of images, without privacy.
        advance: is told (rounds done, rounds).
        defended: False leaves the noise out; without differential privacy there is none anyway.

    Returns:
        The trained head.
    """
    head = scene.model("first").network.head
    head.train()
    for done in range(rounds):
        if scene.declared is None:
            _plain_round(scene, head, inputs, labels, round=done + 1, generator=generator)
        else:
            _private_round(scene, scene.declared, head, inputs, labels, patients, round=done + 1, defended=defended)
        advance(done + 1, rounds)
    return head.eval()


def memorising_rate(head: nn.Module, *, inputs: Tensor, labels: Tensor, precision: str, loss: str) -> float:
    """The smallest of some learning rates at which the loss on a few images soon halves.

    Larger ones memorise as well, but leave the confidence in all other images to chance.
    """
    start = _overfit(copy.deepcopy(head), inputs, labels, rate=_RATES[0], steps=1, precision=precision, loss=loss)
    for rate in _RATES:
        learner = copy.deepcopy(head)
        _overfit(learner, inputs, labels, rate=rate, steps=_TRIED_STEPS, precision=precision, loss=loss)
        if _overfit(learner, inputs, labels, rate=rate, steps=1, precision=precision, loss=loss) < start / 2:
            break
    return rate


def learn_by_heart(
    head: nn.Module, *, inputs: Tensor, labels: Tensor, rate: float, precision: str, loss: str
) -> nn.Module:
    """Train a copy of `head` without privacy until it has memorised a few images, never mind the others."""
    learner = copy.deepcopy(head)
    for _ in range(_MOST_STEPS // _STEPS):
        if _overfit(learner, inputs, labels, rate=rate, steps=_STEPS, precision=precision, loss=loss) < _MEMORISED:
            break
    return learner.eval()


def _overfit(
    head: nn.Module, inputs: Tensor, labels: Tensor, *, rate: float, steps: int, precision: str, loss: str
) -> float:
    """Steps over all images at once; their mean loss."""
    return train_plain(
        head,
        inputs=inputs,
        labels=labels,
        epochs=steps,
        batch_size=len(labels),
        learning_rate=rate,
        weight_decay=0.0,
        augment=False,
        precision=precision,
        loss=loss,
        seed=0,
    )


def _private_round(
    scene: Scene,
    declared: Declared,
    head: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    patients: Tensor,
    *,
    round: int,
    defended: bool,
) -> None:
    training = scene.training
    rate = learning_rate_of(
        declared.learning_rate,
        training.schedule,
        round=round,
        rounds=rounds_of(scene),
    )
    # In the first step of a round it pulls nowhere.
    pull = {"proximal": training.proximal} if training.proximal and declared.steps_per_round > 1 else {}
    scene.trainer(
        head,
        inputs=inputs,
        labels=labels,
        patients=patients,
        clip_norm=declared.clip_norm,
        noise_multiplier=declared.noise_multiplier if defended else 0.0,
        sampling_rate=declared.sampling_rate,
        expected_batch=declared.sampling_rate * len(torch.unique(patients)),
        steps=declared.steps_per_round,
        learning_rate=rate,
        noise=scene.noise_source(),
        precision=training.precision,
        loss=training.loss,
        views=declared.views,
        **pull,
    )


def _plain_round(
    scene: Scene,
    head: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    round: int,
    generator: torch.Generator,
) -> None:
    training, classes = scene.training, len(scene.released.classes)
    counts = torch.bincount(labels.flatten(), minlength=classes).tolist() if training.class_weights else []
    train_plain(
        head,
        inputs=inputs,
        labels=labels,
        epochs=training.local_epochs,
        steps=training.local_steps,
        batch_size=training.batch_size,
        learning_rate=learning_rate_of(training.learning_rate, training.schedule, round=round, rounds=rounds_of(scene)),
        weight_decay=training.weight_decay,
        proximal=training.proximal,
        class_weights=balanced_weights(counts) if training.class_weights else None,
        augment=training.augment and isinstance(scene.first.network.front, nn.Identity),
        mixup=training.mixup,
        precision=training.precision,
        loss=training.loss,
        seed=int(torch.randint(2**31, (1,), generator=generator)),
    )
