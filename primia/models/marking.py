"""From a volume to a mask on the very grid the volume came with."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.data.volumes import from_images, place, prepare, restore, to_images
from primia.errors import DataError
from primia.models.released import ReleasedModel

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image


def mark(model: ReleasedModel, volume: "Nifti1Image") -> NDArray[np.uint8]:
    """The class of every voxel of `volume`, (i, j, k) as stored; 0 outside of what the model sees of it.

    The volume is prepared as the training volumes were, and the answer is brought back by nearest neighbours.

    Args:
        model: of volumes: `model.segments`, and `model.volume` is not None.
        volume: as `primia.data.nifti.read_volume` gives it.

    Raises:
        DataError: at the model's spacing the volume would be absurdly large, or the model's answer is no number.
    """
    assert model.segments and model.volume is not None
    prepared, placement = prepare(volume, model.volume, pixels=model.pixels)
    images = to_images(prepared, model.volume)
    classes = [_classes(model.logits(batch)) for batch in torch.split(images, 16)]
    return restore(from_images(torch.cat(classes), model.volume), placement)


def share_seen(model: ReleasedModel, volume: "Nifti1Image") -> float:
    """Share of `volume` that the model sees: what it was not made for lies outside of its images.

    Raises:
        DataError: as `mark`.
    """
    assert model.volume is not None
    return place(volume, model.volume, pixels=model.pixels).seen


def _classes(logits: Tensor) -> Tensor:
    if not torch.isfinite(logits).all():
        raise DataError("The model answers with values that are no numbers, as one does whose training diverged.")
    return logits.argmax(dim=1).to(torch.uint8)
