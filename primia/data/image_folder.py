"""A folder of PNG and JPEG files as a source: one sub-folder per class, or a labels file."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from primia.config import Columns
from primia.data.decoding import RefusedFileError
from primia.data.sources import SourceImage
from primia.errors import DataError

_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class ImageFolder:
    """Images below `folder`; without `labels_file` the first sub-folder is the class."""

    folder: Path
    labels_file: str | None
    columns: Columns

    @property
    def synthetic(self) -> bool:
        """Always false: these may be patients."""
        return False

    def describe(self) -> str:
        """Kind and place."""
        return f"image_folder {self.folder}"

    def images(self) -> Iterator[SourceImage]:
        """Every file of a class folder, or every row of the labels file.

        Raises:
            DataError: the folder or labels file is missing, empty or unreadable, or lacks a column.
        """
        if not self.folder.is_dir():
            raise DataError(
                f"The data folder {self.folder} does not exist or is no folder; correct ingest.folder in params.yaml."
            )
        found = self._by_class() if self.labels_file is None else self._by_row(self.labels_file)
        empty = True
        for image in found:
            empty = False
            yield image
        if empty:
            raise DataError(
                f"The data folder {self.folder} holds no image; put PNG or JPEG files into one sub-folder per class, "
                "or name a labels file with at least one row in ingest.labels_file."
            )

    def _by_class(self) -> Iterator[SourceImage]:
        for name in _files_below(self.folder):
            label, *between, file = name.split("/") if "/" in name else ("", name)
            # Beside the class folders a README is welcome; an image there has lost its class.
            if label or file.lower().endswith(_SUFFIXES):
                patient = between[0] if between else PurePosixPath(file).stem
                yield SourceImage(file=name, label=label, patient=patient, read=partial(_read, self.folder, name))

    def _by_row(self, labels_file: str) -> Iterator[SourceImage]:
        seen: set[str] = set()
        for row in _rows(self.folder, labels_file, self.columns):
            # Lexical: ".." may not leave the folder. Links inside it are its owner's doing (dvc makes them, too).
            name = Path(os.path.relpath(self.folder / row["path"], self.folder)).as_posix() if row["path"] else ""
            if not name:
                read = partial(_refuse, f"has no path in {labels_file}")
            elif name.split("/")[0] in ("..", "."):
                read = partial(_refuse, "lies outside the data folder")
            elif name in seen:
                read = partial(_refuse, f"is listed twice in {labels_file}")
            else:
                read = partial(_read, self.folder, name)
            seen.add(name)
            yield SourceImage(
                file=name,
                label=row["label"],
                patient=row["patient"],
                hospital=row.get("hospital", ""),
                split=row.get("split", ""),
                read=read,
            )


def _files_below(folder: Path) -> Iterator[str]:
    """Relative names of all files below `folder`, in name order, without hidden files and folders."""

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); give the user who runs primia read permission."
        ) from error

    names: list[str] = []
    entered: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(place)
        if real in entered:
            raise DataError(f"{place} is a link to a folder that is read already; remove the link.")
        entered.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [Path(place, name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
    return iter(sorted(names))


def _rows(folder: Path, labels_file: str, columns: Columns) -> Iterator[dict[str, str]]:
    """Rows of the labels file, keyed by role (path, label, patient, hospital, split)."""
    path = folder / labels_file
    if os.path.relpath(path, folder).startswith(".."):
        raise DataError(f"The labels file {path} lies outside the data folder; move it into {folder}.")
    named = {role: column for role, column in columns.model_dump().items() if column is not None}
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


def _read(folder: Path, name: str) -> bytes:
    path = folder / name
    if not path.exists():
        raise RefusedFileError("does not exist")
    if not path.is_file():  # a pipe or device would be waited on for ever
        raise RefusedFileError("is no regular file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise RefusedFileError(f"cannot be read ({error.strerror})") from error


def _refuse(reason: str) -> bytes:
    raise RefusedFileError(reason)
