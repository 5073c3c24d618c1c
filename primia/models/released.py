"""The model that leaves a federation: its head, and all that is needed to use it on an image."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from primia.config import Volume
from primia.consistency import SEGMENTING
from primia.errors import ConfigError, DataError
from primia.files import folder_in_progress, read_json, write_json
from primia.models.networks import Network, at_a_time, build_network

_BATCH = 64


@dataclass(frozen=True)
class ReleasedModel:
    """What leaves the federation: a network with its class order and the statistics of its input.

    `mean` and `std` standardise an image in [0, 1]; `round` is the federation's round the weights come from. `volume`
    says how images are made of a volume, None for a model of pictures.
    """

    network: Network
    architecture: str
    classes: tuple[str, ...]
    pixels: int
    mean: float
    std: float
    round: int
    weight_standardisation: bool = False
    volume: Volume | None = None

    @property
    def segments(self) -> bool:
        """Whether the model gives every pixel a class, instead of one class to an image."""
        return self.architecture in SEGMENTING

    @property
    def depth(self) -> int | None:
        """Slices of an image that is a volume; None for flat images."""
        return None if self.volume is None else self.volume.depth

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image without its channel: (pixels, pixels) or (pixels, pixels, depth)."""
        return (self.pixels, self.pixels) if self.depth is None else (self.pixels, self.pixels, self.depth)

    def logits(self, images: Tensor) -> Tensor:
        """Logits of images (n, 1, *shape) in [0, 1] of any float type: (n, classes), of pixels (n, classes, *shape)."""
        assert images.shape[1:] == (1, *self.shape), tuple(images.shape)
        was_training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                answers = [
                    self.network((batch.float() - self.mean) / self.std)
                    for batch in torch.split(images, at_a_time(images, _BATCH))
                ]
        finally:
            self.network.train(was_training)
        return torch.cat(answers)

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities of images, float32, both as for `logits`."""
        return torch.softmax(self.logits(images), dim=1)

    def digest(self) -> str:
        """SHA-256 over everything that decides an answer; the round that the weights come from does not.

        Architecture, classes in their order, size, statistics and preparation of the input, then the head's weights:
        names in order, shapes, and float32 values, little-endian.
        """
        said = (
            self.architecture,
            bool(self.weight_standardisation),
            tuple(self.classes),
            int(self.pixels),
            float(self.mean),
            float(self.std),
            None if self.volume is None else self.volume.model_dump_json(),
        )
        digest = hashlib.sha256(repr(said).encode())
        for name, weight in sorted(_head_weights(self.network).items()):
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            digest.update(weight.numpy().astype("<f4").tobytes())
        return digest.hexdigest()


class _Card(BaseModel):
    """model.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    architecture: str
    weight_standardisation: bool = False
    classes: tuple[str, ...] = Field(min_length=2)
    pixels: int = Field(ge=1)
    volume: Volume | None = None
    mean: float = Field(allow_inf_nan=False)
    std: float = Field(gt=0.0, allow_inf_nan=False)
    round: int = Field(ge=0)
    digest: str


def save_model(folder: Path, model: ReleasedModel) -> None:
    """Write weights.safetensors and model.json to `folder`; an earlier model there stays whole until both exist."""
    from safetensors.torch import save_file

    card = _Card(
        architecture=model.architecture,
        weight_standardisation=model.weight_standardisation,
        classes=model.classes,
        pixels=model.pixels,
        volume=model.volume,
        mean=model.mean,
        std=model.std,
        round=model.round,
        digest=model.digest(),
    )
    with folder_in_progress(folder) as temporary:
        save_file(_head_weights(model.network), temporary / "weights.safetensors")
        (temporary / "weights.safetensors").chmod(0o644)
        write_json(temporary / "model.json", card.model_dump(mode="json"))


def load_model(folder: Path, *, classes: Sequence[str] | None = None) -> ReleasedModel:
    """Read a model that `save_model` wrote.

    Args:
        folder: holds weights.safetensors and model.json.
        classes: the class order the caller works with; None accepts the model's own.

    Raises:
        DataError: a file is missing or damaged, the weights do not belong to the description, or the class order
            differs, which would swap diagnoses silently.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    card_path, weights_path = folder / "model.json", folder / "weights.safetensors"
    try:
        card = _Card.model_validate(read_json(card_path))
        network = build_network(
            card.architecture,
            classes=len(card.classes),
            pixels=card.pixels,
            depth=None if card.volume is None else card.volume.depth,
            seed=0,
            weight_standardisation=card.weight_standardisation,
        )
    except (ValidationError, ConfigError) as error:
        raise DataError(f"{card_path} describes no model of this version; train or export the model again.") from error
    if classes is not None and tuple(classes) != card.classes:
        raise DataError(
            f"{folder} was trained for the classes {', '.join(card.classes)} in this order, not for "
            f"{', '.join(classes)}; set ingest.classes to the model's order or train a model for yours."
        )
    try:
        weights = load_file(weights_path)
    except FileNotFoundError as error:
        raise DataError(f"{weights_path} is missing; run the stage that writes it (dvc repro).") from error
    except SafetensorError as error:
        raise DataError(f"{weights_path} is damaged ({error}); run the stage that writes it again.") from error
    expected = {name: weight.shape for name, weight in _head_weights(network).items()}
    if {name: weight.shape for name, weight in weights.items()} != expected:
        raise DataError(f"{weights_path} holds no {card.architecture} weights; run the stage that writes it again.")
    network.head.load_state_dict(weights)
    network.eval()
    model = ReleasedModel(
        network=network,
        architecture=card.architecture,
        weight_standardisation=card.weight_standardisation,
        classes=card.classes,
        pixels=card.pixels,
        volume=card.volume,
        mean=card.mean,
        std=card.std,
        round=card.round,
    )
    if model.digest() != card.digest:
        raise DataError(f"{weights_path} does not match the digest in {card_path}; restore both from one run.")
    return model


def _head_weights(network: Network) -> dict[str, Tensor]:
    """The head's weights by name, contiguous float32 copies on the CPU."""
    return {
        name: weight.detach().to("cpu", torch.float32, copy=True, memory_format=torch.contiguous_format)
        for name, weight in network.head.state_dict().items()
    }
