"""The weights that round 1 starts from: drawn from a seed, or taught on phantoms, which costs no privacy."""

import functools
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from primia.config import Model, Training
from primia.consistency import PHANTOM_STRUCTURES, SEGMENTING
from primia.data.phantom import PHANTOM_CLASSES
from primia.data.phantom_set import labelled_phantoms, masked_phantoms
from primia.errors import ConfigError
from primia.models.networks import Network, build_network
from primia.training.plain import train_plain

# Invented scanners: the hospitals' own styles are nobody's business here.
_SCANNERS = tuple(f"pretraining-{number}" for number in range(6))
_BATCH = 64


def initial_network(
    model: Model, training: Training, *, classes: Sequence[str], pixels: int, depth: int | None = None
) -> Network:
    """The network before round 1; equal arguments and threads give equal bits, so that a killed run begins alike.

    With `training.pretrain: phantom` it is trained without differential privacy on freshly generated phantoms, whose
    images are nobody's: nothing is charged. The phantoms are drawn from a seed made of `model.seed` and are not those
    of an ingested phantom source. They pass the same preprocessing as patients' images and are standardised by their
    own mean and deviation. A network that segments learns to find lungs; where others than these are to be found, its
    last layer is as drawn from the seed.

    Args:
        model: architecture and seed.
        training: whether, how long and how fast to pretrain; batch size, weight decay, augmentation, precision and
            threads are those of training without differential privacy.
        classes: with pretraining of a network that classifies some of the phantoms' classes, in any order.
        pixels: side of the square images.
        depth: of volumes; None of images.

    Raises:
        ConfigError: the network cannot take images of this size, or pretraining diverges, or is of volumes.
    """
    network = _drawn(model, classes=len(classes), pixels=pixels, depth=depth)
    if training.pretrain != "phantom":
        return network
    if depth is not None:
        raise ConfigError(
            f"training.pretrain is phantom, but phantoms are images and preprocess.volume.depth is {depth}; "
            "set training.pretrain to none, or the depth to null."
        )
    segments = model.architecture in SEGMENTING
    weights = _taught(model, training, PHANTOM_STRUCTURES if segments else tuple(classes), pixels)
    if segments and tuple(classes) != PHANTOM_STRUCTURES:
        weights = {name: weight for name, weight in weights.items() if not name.startswith("last.")}
    network.head.load_state_dict(network.head.state_dict() | weights)
    return network


def _drawn(model: Model, *, classes: int, pixels: int, depth: int | None = None) -> Network:
    return build_network(
        model.architecture,
        classes=classes,
        pixels=pixels,
        seed=model.seed,
        weight_standardisation=model.weight_standardisation,
        depth=depth,
    )


@functools.lru_cache(maxsize=4)  # a comparison starts many runs from the same network
def _taught(model: Model, training: Training, classes: tuple[str, ...], pixels: int) -> dict[str, Tensor]:
    """Weights of the head after pretraining; not to be changed."""
    network, seed = _drawn(model, classes=len(classes), pixels=pixels), _seed_of(model.seed)
    phantoms_of = masked_phantoms if classes == PHANTOM_STRUCTURES else labelled_phantoms
    images, labels = phantoms_of(patients=training.pretrain_patients, pixels=pixels, hospitals=_SCANNERS, seed=seed)
    if classes != PHANTOM_STRUCTURES:
        images, labels = _of_classes(images, labels, classes)
    values = images.float()
    values = (values - values.mean()) / values.std()
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads)  # on which the order of sums depends
    try:
        with torch.no_grad():
            inputs = torch.cat([network.front(batch) for batch in torch.split(values, _BATCH)])
        train_plain(
            network.head,
            inputs=inputs,
            labels=labels,
            epochs=training.pretrain_epochs,
            batch_size=training.batch_size,
            learning_rate=training.pretrain_learning_rate,
            weight_decay=training.weight_decay,
            augment=training.augment,
            precision=training.precision,
            seed=seed,
            loss="dice_cross_entropy" if labels.dim() > 1 else "cross_entropy",
        )
    finally:
        torch.set_num_threads(threads)
    if not all(bool(torch.isfinite(weight).all()) for weight in network.head.parameters()):
        raise ConfigError(
            f"Pretraining on phantoms diverged at training.pretrain_learning_rate {training.pretrain_learning_rate}; "
            "lower it, or set training.pretrain to none."
        )
    return network.head.state_dict()


def _of_classes(images: Tensor, shown: Tensor, classes: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """The images of these classes, and labels that are an index into them."""
    place = torch.tensor([classes.index(name) if name in classes else -1 for name in PHANTOM_CLASSES])
    labels = place[shown]
    return images[labels >= 0], labels[labels >= 0]


def _seed_of(seed: int) -> int:
    """Seed of the phantoms and of the training on them, below 2^32."""
    return int.from_bytes(hashlib.sha256(f"primia pretraining\0{seed}".encode()).digest()[:4])
