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
    empty; `sha256` is over the file's bytes, of which there are `bytes`.
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


def write_manifest(path: Path, rows: Iterable[ManifestRow]) -> None:
    """Write the rows in the given order."""
    write_csv(path, [field.name for field in fields(ManifestRow)], (asdict(row).values() for row in rows))


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
    return ManifestRow(**values)
