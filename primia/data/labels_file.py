"""A CSV file that says of each image whose it is, what it shows, and at which hospital."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from primia.config import Columns
from primia.errors import DataError


def rows_of(folder: Path, labels_file: str, columns: Columns, *, labelled: bool = True) -> Iterator[dict[str, str]]:
    """Rows of the labels file, keyed by role: path, label (if `labelled`), patient, and hospital and split if named.

    Raises:
        DataError: the file is missing, outside `folder`, unreadable, or lacks a column.
    """
    path = folder / labels_file
    if os.path.relpath(path, folder).startswith(".."):
        raise DataError(f"The labels file {path} lies outside the data folder; move it into {folder}.")
    named = {role: column for role, column in columns.model_dump().items() if column is not None}
    if not labelled:
        del named["label"]
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            present = reader.fieldnames or []
            for role, column in named.items():
                if column not in present:
                    raise DataError(
                        f"The labels file {path} has no column {column!r} (it has: {', '.join(present) or 'none'}); "
                        f"correct ingest.columns.{role} in params.yaml."
                    )
            for row in reader:
                yield {role: (row[column] or "").strip() for role, column in named.items()}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"The labels file {path} cannot be read as UTF-8 CSV ({reason}); correct ingest.labels_file or the file."
        ) from error
