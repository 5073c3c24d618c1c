"""A set of preprocessed images with their labels and patients, in memory and on disk."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from primia.errors import DataError
from primia.files import write_bytes

_FORMAT = "primia-image-set-1"


@dataclass(frozen=True)
class ImageSet:
    """Images of one hospital's split, or of the central test set.

    `images` is (images, 1, pixels, pixels) float16 in [0, 1], or (images, 1, pixels, pixels, depth) where every image
    is a volume. `labels` is (images,) int64, an index into `classes`, or with masks such an index for every pixel,
    (images, pixels, pixels) or (images, pixels, pixels, depth) uint8. `patients` is (images,) int64, an index into
    `patient_ids`. Where images are slices, those of a patient follow one another upwards. `hospitals` names that of
    each of `patient_ids`, or is empty: where all are of one hospital, it goes without saying.
    """

    images: Tensor
    labels: Tensor
    patients: Tensor
    image_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    classes: tuple[str, ...]
    hospitals: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        count, spatial = len(self.image_ids), self.images.shape[2:]
        assert self.images.dtype == torch.float16 and len(spatial) in (2, 3) and spatial[0] == spatial[1]
        assert self.images.shape[:2] == (count, 1)
        assert self.labels.dtype in (torch.int64, torch.uint8)
        assert self.labels.shape == ((count, *spatial) if self.masks else (count,))
        assert self.patients.dtype == torch.int64 and self.patients.shape == (count,)
        assert len(self.hospitals) in (0, len(self.patient_ids))
        for values, names in ((self.labels, self.classes), (self.patients, self.patient_ids)):
            assert count == 0 or (int(values.min()) >= 0 and int(values.max()) < len(names))

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def pixels(self) -> int:
        """Both sides of every image, or of every slice of a volume."""
        return int(self.images.shape[2])

    @property
    def depth(self) -> int | None:
        """Slices of every image; None where images are flat."""
        return int(self.images.shape[4]) if self.images.ndim == 5 else None

    @property
    def masks(self) -> bool:
        """Whether `labels` give a class to every pixel."""
        return self.labels.dtype == torch.uint8

    def subset(self, mask_or_index: Tensor) -> "ImageSet":
        """Keep the images a boolean mask or an integer index selects, and the patients that occur among them."""
        index = torch.arange(len(self))[mask_or_index]
        occurring, patients = torch.unique(self.patients[index], return_inverse=True)
        return ImageSet(
            images=self.images[index],
            labels=self.labels[index],
            patients=patients,
            image_ids=tuple(self.image_ids[i] for i in index.tolist()),
            patient_ids=tuple(self.patient_ids[i] for i in occurring.tolist()),
            classes=self.classes,
            hospitals=tuple(self.hospitals[i] for i in occurring.tolist()) if self.hospitals else (),
        )


def save_image_set(path: Path, image_set: ImageSet) -> None:
    """Write `image_set` as safetensors, atomically; equal sets give equal bytes."""
    # All metadata sits under one key: safetensors writes several keys in an order that changes between runs.
    names = {
        "format": _FORMAT,
        "image_ids": image_set.image_ids,
        "patient_ids": image_set.patient_ids,
        "classes": image_set.classes,
    }
    if image_set.hospitals:
        names["hospitals"] = image_set.hospitals
    tensors = {
        "images": image_set.images.contiguous(),
        "labels": image_set.labels.contiguous(),
        "patients": image_set.patients.contiguous(),
    }
    write_bytes(path, save(tensors, metadata={"names": json.dumps(names)}))


def patients_in(path: Path) -> frozenset[str]:
    """Names of the patients in a file that `save_image_set` wrote, without reading its images.

    Raises:
        DataError: as `load_image_set`.
    """
    with _said_of(path), safe_open(path, framework="pt") as stream:
        return frozenset(json.loads((stream.metadata() or {})["names"])["patient_ids"])


def load_image_set(path: Path) -> ImageSet:
    """Read what `save_image_set` wrote.

    Raises:
        DataError: `path` is missing, cut short, or no image set.
    """
    with _said_of(path):
        with safe_open(path, framework="pt") as stream:
            names = json.loads((stream.metadata() or {})["names"])
            tensors = {name: stream.get_tensor(name) for name in ("images", "labels", "patients")}
        return ImageSet(
            **tensors,
            image_ids=tuple(names["image_ids"]),
            patient_ids=tuple(names["patient_ids"]),
            classes=tuple(names["classes"]),
            hospitals=tuple(names.get("hospitals", ())),
        )


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the preprocess stage (dvc repro preprocess).") from error
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError, AssertionError) as error:
        raise DataError(
            f"{path} is cut short or no image set; name another one, or if the preprocess "
            "stage wrote it, run dvc repro --force preprocess."
        ) from error
