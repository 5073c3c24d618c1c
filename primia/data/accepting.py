"""Accept one image of a source, with its label or mask, or refuse it with one reason."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.config import Ingest
from primia.data.decoding import RefusedFileError, bits_of, decode
from primia.data.manifest import SPLITS, ManifestRow
from primia.data.masks import check_pair, said_of_the_mask, to_classes
from primia.data.nifti import decode_volume, is_blank, values_of
from primia.data.sources import SourceImage

Meaning = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Accepted:
    """An image that passed."""

    row: ManifestRow
    shows: frozenset[str]  # classes
    pixels: bytes  # SHA-256 of the decoded picture or volume

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and bits."""
        return self.row.height, self.row.width, self.row.bits


@dataclass(frozen=True)
class _Decoded:
    height: int
    width: int
    depth: int
    bits: int
    pixels: bytes
    shows: frozenset[str]  # classes in the mask


def accept(image: SourceImage, settings: Ingest, meaning: Meaning) -> tuple[Accepted, dict[str, bytes]]:
    """Check one image; the second answer is what to write where, below the folder of the manifest.

    `meaning` says which values of a mask file are which class, see `primia.data.masks.meaning_of`.

    Raises:
        RefusedFileError: the image or its mask cannot be used, or it lacks a class, patient or split.
    """
    for name in (image.file, image.mask):
        if printable(name) != name:
            raise RefusedFileError("has a name that is not UTF-8")
    content = image.read()
    mask = None
    if image.read_mask is not None:
        with said_of_the_mask():
            mask = image.read_mask()
    label = "" if mask is not None else _label_of(image, settings)
    if not image.patient:
        raise RefusedFileError("names no patient")
    split = SPLITS.get(image.split.lower(), "")
    if not split and (image.split or (settings.labels_file and settings.columns.split)):
        raise RefusedFileError(f"has the split {image.split!r}; allowed are {', '.join(SPLITS)}")
    if settings.source == "nifti":
        assert mask is not None
        decoded = _volume(content, mask, meaning)
    else:
        decoded = _picture(content, mask, meaning)
    files = {f"images/{image.file}": content}
    if mask is not None:
        files[f"masks/{image.mask}"] = mask
    row = ManifestRow(
        image=image.file,
        patient=image.patient,
        label=label,
        hospital=image.hospital,
        split=split,
        path=f"images/{image.file}",
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        height=decoded.height,
        width=decoded.width,
        bits=decoded.bits,
        depth=decoded.depth,
        mask="" if mask is None else f"masks/{image.mask}",
        mask_sha256="" if mask is None else hashlib.sha256(mask).hexdigest(),
    )
    return Accepted(row, decoded.shows or frozenset({label}), decoded.pixels), files


def printable(name: str) -> str:
    """A file's name for messages and tables."""
    return name.encode("utf-8", "backslashreplace").decode()


def _label_of(image: SourceImage, settings: Ingest) -> str:
    # Publishers write NORMAL where params.yaml says normal.
    label = image.label.strip().lower()
    if label not in settings.classes:
        what = f"has the label {image.label!r}" if label else "lies in no class folder and has no label"
        raise RefusedFileError(f"{what}; ingest.classes allows {', '.join(settings.classes)}")
    return label


def _picture(content: bytes, mask: bytes | None, meaning: Meaning) -> _Decoded:
    picture = decode(content)
    shows: frozenset[str] = frozenset()
    if mask is not None:
        with said_of_the_mask():
            drawn = decode(mask)
        if drawn.size != picture.size:
            raise RefusedFileError(
                f"has {picture.width} x {picture.height} pixels, but its mask {drawn.width} x {drawn.height}"
            )
        shows = _shown(to_classes(np.asarray(drawn), meaning), meaning)
    pixels = hashlib.sha256(f"{picture.mode}{picture.size}".encode() + picture.tobytes()).digest()
    return _Decoded(picture.height, picture.width, 0, bits_of(picture), pixels, shows)


def _volume(content: bytes, mask: bytes, meaning: Meaning) -> _Decoded:
    from nibabel.orientations import apply_orientation, io_orientation

    volume = decode_volume(io.BytesIO(content))
    with said_of_the_mask():
        drawn = decode_volume(io.BytesIO(mask))
    check_pair(volume, drawn)
    if is_blank(volume):
        raise RefusedFileError("has the same value in all voxels")
    classes = to_classes(values_of(drawn), meaning)
    if not classes.any():
        raise RefusedFileError("has an empty mask")
    width, height, depth = volume.shape
    bits = 8 * volume.get_data_dtype().itemsize
    # However the axes are stored, and wherever the volume is said to lie: a copy is often given another header.
    upright = apply_orientation(values_of(volume), io_orientation(volume.affine))
    pixels = hashlib.sha256(f"{upright.shape}".encode())
    pixels.update(np.ascontiguousarray(upright.T).data)
    return _Decoded(height, width, depth, bits, pixels.digest(), _shown(classes, meaning))


def _shown(classes: NDArray[np.uint8], meaning: Meaning) -> frozenset[str]:
    return frozenset(name for index, name in enumerate(meaning) if (classes == index).any())
