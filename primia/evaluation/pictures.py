"""What a reviewer looks at: image, truth, prediction and doubt of the worst, the median and the best test patient."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from primia.data.image_set import ImageSet
from primia.evaluation.metrics import Floats
from primia.files import write_bytes

# What is published of patients who agreed to be shown.
PICTURES = "images of test patients with their masks in the report (evaluation.pictures)"


@dataclass(frozen=True)
class Overlay:
    """One slice, upright: `image` and `doubt` are (height, width) float16 in [0, 1], the maps uint8 classes."""

    name: str
    patient: int
    dice: float
    image: Tensor
    truth: Tensor
    prediction: Tensor
    doubt: Tensor


def overlays(
    test: ImageSet, predicted: Tensor, doubt: Tensor, *, patients: Sequence[int], dice: Floats, of_volumes: bool
) -> list[Overlay]:
    """The two worst patients, the median and the best, each by the slice that shows most of the structures.

    Args:
        test: the test set.
        predicted: (images, *spatial) classes.
        doubt: (images, *spatial).
        patients: their numbers, the worst first.
        dice: of these patients, (patients,).
        of_volumes: images are slices (x, y) of volumes, towards the patient's right and front: they are turned so that
            the front is on top and, as radiologists see it, the patient's right on the left.
    """
    last = len(patients) - 1
    places = {"worst": 0, "second worst": min(1, last), "median": last // 2, "best": last}
    return [
        _overlay(name, test, predicted, doubt, patient=patients[place], dice=float(dice[place]), turn=of_volumes)
        for name, place in places.items()
    ]


def _overlay(
    name: str, test: ImageSet, predicted: Tensor, doubt: Tensor, *, patient: int, dice: float, turn: bool
) -> Overlay:
    rows = torch.nonzero(test.patients == patient).flatten()
    stacks = [each[rows] for each in (test.images[:, 0], test.labels, predicted, doubt)]
    if test.depth is not None:  # slices of a volume, as if they were images
        stacks = [each.movedim(-1, 1).flatten(0, 1) for each in stacks]
    if turn:
        stacks = [each.flip(1, 2).mT for each in stacks]
    images, truths, predictions, doubts = stacks
    fullest = int((truths > 0).flatten(1).sum(dim=1).argmax())
    return Overlay(
        name=name,
        patient=patient,
        dice=dice,
        image=images[fullest],
        truth=truths[fullest],
        prediction=predictions[fullest],
        doubt=doubts[fullest],
    )


def save_overlays(path: Path, shown: Sequence[Overlay]) -> None:
    """Write them as safetensors: `<number>.<what>`, and names, patients and Dice as JSON under the key `shown`."""
    tensors = {
        f"{number}.{what}": getattr(each, what).contiguous()
        for number, each in enumerate(shown)
        for what in ("image", "truth", "prediction", "doubt")
    }
    told = [{"name": each.name, "patient": each.patient, "dice": each.dice} for each in shown]
    write_bytes(path, save(tensors, metadata={"shown": json.dumps(told)}))
