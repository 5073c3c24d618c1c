"""One row of the manifest as what a network sees of it, and what it should answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from primia.config import Preprocess, Volume
from primia.data.decoding import RefusedFileError, decode
from primia.data.manifest import ManifestRow
from primia.data.masks import check_pair, said_of_the_mask, shrink_mask, to_classes
from primia.data.nifti import read_volume, stem_of, values_of
from primia.data.preprocess import load_image
from primia.data.sources import read_file
from primia.data.volumes import Lost, prepare, prepare_mask, to_images
from primia.errors import DataError


@dataclass(frozen=True)
class Sample:
    """The images of one file: one, or the slices of a volume from below upwards.

    `images` is (n, 1, *spatial) float16 in [0, 1]; `labels` is (n,) int64 or (n, *spatial) uint8, see
    `primia.data.image_set`. `lost` is what of a volume's structures lies outside of the images.
    """

    images: Tensor
    labels: Tensor
    image_ids: tuple[str, ...]
    lost: Lost = field(default_factory=Lost)


def load_sample(
    row: ManifestRow,
    settings: Preprocess,
    *,
    raw: Path,
    classes: Sequence[str],
    label_values: Mapping[str, Sequence[int]],
) -> Sample:
    """Read the image of `row`, and its mask if it has one, from the folder `raw` that ingest wrote.

    `label_values` says which values of a mask file are which class.

    Raises:
        DataError: a file is missing or damaged, or image and mask do not belong together.
    """
    try:
        if settings.volume is not None:
            return _volume(row, settings, settings.volume, raw=raw, label_values=label_values)
        image = load_image(raw / row.path, pixels=settings.pixels)[None]
        if not row.mask:
            return Sample(image, torch.tensor([classes.index(row.label)]), (row.image,))
        with said_of_the_mask():
            drawn = decode(read_file(raw / row.mask))
        mask = shrink_mask(to_classes(np.asarray(drawn), label_values), pixels=settings.pixels)
        return Sample(image, mask[None], (row.image,))
    except RefusedFileError as refusal:
        raise DataError(
            f"The image {raw / row.path} {refusal}; run the ingest stage again (dvc repro ingest)."
        ) from refusal


def _volume(
    row: ManifestRow, settings: Preprocess, volume: Volume, *, raw: Path, label_values: Mapping[str, Sequence[int]]
) -> Sample:
    image, mask = read_volume(raw / row.path), read_volume(raw / row.mask)
    check_pair(image, mask)
    try:
        seen, placement = prepare(image, volume, pixels=settings.pixels)
    except DataError as error:
        raise DataError(f"The image {raw / row.path} does not fit: {error}") from error
    answer, lost = prepare_mask(to_classes(values_of(mask), label_values), placement, structures=len(label_values) - 1)
    images, labels, name = to_images(seen, volume), to_images(answer, volume), stem_of(row.image)
    ids = (name,) if volume.depth is not None else tuple(f"{name}/{z:03d}" for z in range(len(images)))
    return Sample(images, labels, ids, lost)
