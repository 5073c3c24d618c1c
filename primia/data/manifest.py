"""The table of accepted images, `data/raw/manifest.csv`."""

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from primia.errors import DataError
from primia.files import write_csv

SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
class ManifestRow:
    """One accepted image.

    `path` is relative to the manifest's folder; `split` is train, validation, test or empty; `hospital` may be
    empty; `sha256` is over the file's bytes, of which there are `bytes`. An image with a mask has the mask's path and
    sum instead of a label; a volume has `width`, `height` and `depth` voxels along its stored axes, a picture depth 0.
    """

    image: str
    patient: str
    label: str
    hospital: str
    split: str
    path: str
    sha256: str
    bytes: int
    height: int
    width: int
    bits: int
    depth: int = 0
    mask: str = ""
    mask_sha256: str = ""


_OF_MASKS = ("depth", "mask", "mask_sha256")


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows in the given order; without masks, there are no columns for them."""
    table = [asdict(row) for row in rows]
    masked = any(row["mask"] for row in table)
    names = [field.name for field in fields(ManifestRow) if masked or field.name not in _OF_MASKS]
    write_csv(path, names, ([row[name] for name in names] for row in table))


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Read what `write_manifest` wrote.

    Raises:
        DataError: the manifest is missing or broken.
    """
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            return tuple(_row(line) for line in csv.DictReader(stream))
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the ingest stage (dvc repro ingest).") from error
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no manifest ({error}); run the ingest stage again.") from error


def _row(line: dict[str, str]) -> ManifestRow:
    values: dict[str, Any] = {**line, **{name: int(line[name]) for name in ("bytes", "height", "width", "bits")}}
    if "depth" in line:
        values["depth"] = int(line["depth"])
    return ManifestRow(**values)
