"""A folder of PNG and JPEG files as a source: one sub-folder per class, or a labels file."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from primia.config import Columns
from primia.data.labels_file import rows_of
from primia.data.sources import SourceImage, read_file, refuse
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
        for name in files_below(self.folder):
            label, *between, file = name.split("/") if "/" in name else ("", name)
            # Beside the class folders a README is welcome; an image there has lost its class.
            if label or file.lower().endswith(_SUFFIXES):
                patient = between[0] if between else PurePosixPath(file).stem
                yield SourceImage(file=name, label=label, patient=patient, read=partial(read_file, self.folder / name))

    def _by_row(self, labels_file: str) -> Iterator[SourceImage]:
        seen: set[str] = set()
        for row in rows_of(self.folder, labels_file, self.columns):
            # Lexical: ".." may not leave the folder. Links inside it are its owner's doing (dvc makes them, too).
            name = Path(os.path.relpath(self.folder / row["path"], self.folder)).as_posix() if row["path"] else ""
            if not name:
                read = partial(refuse, f"has no path in {labels_file}")
            elif name.split("/")[0] in ("..", "."):
                read = partial(refuse, "lies outside the data folder")
            elif name in seen:
                read = partial(refuse, f"is listed twice in {labels_file}")
            else:
                read = partial(read_file, self.folder / name)
            seen.add(name)
            yield SourceImage(
                file=name,
                label=row["label"],
                patient=row["patient"],
                hospital=row.get("hospital", ""),
                split=row.get("split", ""),
                read=read,
            )


def files_below(folder: Path) -> Iterator[str]:
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
