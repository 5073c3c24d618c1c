"""The weights that round 1 starts from: drawn from a seed, or taught on phantoms, which costs no privacy."""

import functools
import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from primia.config import Model, Training
from primia.data.phantom import PHANTOM_CLASSES
from primia.data.phantom_set import labelled_phantoms
from primia.errors import ConfigError
from primia.models.networks import Classifier, build_network
from primia.training.plain import train_plain

# Invented scanners: the hospitals' own styles are nobody's business here.
_SCANNERS = tuple(f"pretraining-{number}" for number in range(6))
_BATCH = 64


def initial_network(model: Model, training: Training, *, classes: Sequence[str], pixels: int) -> Classifier:
    """The network before round 1; equal arguments and threads give equal bits, so that a killed run begins alike.

    With `training.pretrain: phantom` it is trained without differential privacy on freshly generated phantoms, whose
    images are nobody's: nothing is charged. The phantoms are drawn from a seed made of `model.seed` and are not those
    of an ingested phantom source. They pass the same preprocessing as patients' images and are standardised by their
    own mean and deviation.

    Args:
        model: architecture and seed.
        training: whether, how long and how fast to pretrain; batch size, weight decay, augmentation, precision and
            threads are those of training without differential privacy.
        classes: with pretraining some of the phantoms' classes, in any order.
        pixels: side of the square images.

    Raises:
        ConfigError: the network cannot take images of this size, or pretraining diverges.
    """
    network = _drawn(model, classes=len(classes), pixels=pixels)
    if training.pretrain == "phantom":
        network.head.load_state_dict(_taught(model, training, tuple(classes), pixels))
    return network


def _drawn(model: Model, *, classes: int, pixels: int) -> Classifier:
    return build_network(
        model.architecture,
        classes=classes,
        pixels=pixels,
        seed=model.seed,
        weight_standardisation=model.weight_standardisation,
    )


@functools.lru_cache(maxsize=4)  # a comparison starts many runs from the same network
def _taught(model: Model, training: Training, classes: tuple[str, ...], pixels: int) -> dict[str, Tensor]:
    """Weights of the head after pretraining; not to be changed."""
    network, seed = _drawn(model, classes=len(classes), pixels=pixels), _seed_of(model.seed)
    images, shown = labelled_phantoms(
        patients=training.pretrain_patients, pixels=pixels, hospitals=_SCANNERS, seed=seed
    )
    place = torch.tensor([classes.index(name) if name in classes else -1 for name in PHANTOM_CLASSES])
    labels = place[shown]
    values = images[labels >= 0].float()
    values = (values - values.mean()) / values.std()
    threads = torch.get_num_threads()
    torch.set_num_threads(training.threads)  # on which the order of sums depends
    try:
        with torch.no_grad():
            inputs = torch.cat([network.front(batch) for batch in torch.split(values, _BATCH)])
        train_plain(
            network.head,
            inputs=inputs,
            labels=labels[labels >= 0],
            epochs=training.pretrain_epochs,
            batch_size=training.batch_size,
            learning_rate=training.pretrain_learning_rate,
            weight_decay=training.weight_decay,
            augment=training.augment,
            precision=training.precision,
            seed=seed,
        )
    finally:
        torch.set_num_threads(threads)
    if not all(bool(torch.isfinite(weight).all()) for weight in network.head.parameters()):
        raise ConfigError(
            f"Pretraining on phantoms diverged at training.pretrain_learning_rate {training.pretrain_learning_rate}; "
            "lower it, or set training.pretrain to none."
        )
    return network.head.state_dict()


def _seed_of(seed: int) -> int:
    """Seed of the phantoms and of the training on them, below 2^32."""
    return int.from_bytes(hashlib.sha256(f"primia pretraining\0{seed}".encode()).digest()[:4])
