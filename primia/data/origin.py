"""Where a hospital's sets come from: what preprocess writes beside them, so that the patients are known again."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from primia.data.manifest import ManifestRow
from primia.errors import DataError
from primia.files import read_json, write_json

FILE = "origin.json"

Mark = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Origin(BaseModel):
    """A source as it came in, before patients were dealt to hospitals: all hospitals dealt from it have the same.

    `fingerprint` is the SHA-256 over the sorted SHA-256 sums of its image files. `marks` are 16 hexadecimal digits for
    every image file and every patient's name: a source that shares one with an earlier source holds some of the same
    patients. Phantoms have none, since nobody is to be protected, and the test patients neither, since no ledger is
    kept of them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fingerprint: str = Field(pattern=r"^[0-9a-f]{64}$")
    synthetic: bool
    marks: frozenset[Mark]


def origin_of(raw: Path, rows: Iterable[ManifestRow]) -> Origin:
    """The origin of everything that ingest wrote to `raw`.

    Raises:
        DataError: source.json is missing or broken.
    """
    path = raw / "source.json"
    source = read_json(path)
    try:
        synthetic = source["synthetic"]
        marks = () if synthetic else (mark for row in rows for mark in (row.sha256[:16], _patient_mark(row.patient)))
        return Origin(fingerprint=source["fingerprint"], synthetic=synthetic, marks=frozenset(marks))
    except (ValidationError, KeyError, TypeError) as error:
        raise DataError(f"{path} does not say what the source is; run the ingest stage (dvc repro ingest).") from error


def write_origin(folder: Path, origin: Origin) -> None:
    """Write `origin` beside the sets of one hospital; equal origins give equal bytes."""
    write_json(folder / FILE, {**origin.model_dump(), "marks": sorted(origin.marks)})


def read_origin(folder: Path) -> Origin:
    """Read what `write_origin` wrote.

    Raises:
        DataError: the file is missing or damaged; without it nobody knows which ledger the patients have.
    """
    path = folder / FILE
    try:
        return Origin.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(
            f"{path} is missing, so it is unknown whose privacy would be spent; run the preprocess stage "
            "(dvc repro preprocess)."
        ) from error
    except ValidationError as error:
        raise DataError(f"{path} is damaged; delete it and run dvc repro preprocess again.") from error


def _patient_mark(name: str) -> str:
    return hashlib.sha256(b"patient\0" + name.encode()).hexdigest()[:16]
