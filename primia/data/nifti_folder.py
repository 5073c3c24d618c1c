"""A folder of NIfTI volumes and masks as a source, laid out as by the Medical Segmentation Decathlon."""

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from primia.config import Columns
from primia.data.image_folder import files_below
from primia.data.labels_file import rows_of
from primia.data.nifti import MOST_FILE_BYTES, stem_of
from primia.data.sources import SourceImage, read_file, refuse
from primia.errors import DataError

IMAGES, MASKS, ABOUT = "imagesTr", "labelsTr", "dataset.json"


@dataclass(frozen=True)
class NiftiFolder:
    """Volumes in `folder`/imagesTr with masks of the same names in `folder`/labelsTr.

    A volume's patient is its name without suffix, unless `labels_file` names another one; then the file also says who
    is at which hospital and in which split. A patient has one volume. The masks of imagesTs are nowhere, so it is not
    read. Of dataset.json only the names of the structures are, see `check_names`.
    """

    folder: Path
    labels_file: str | None
    columns: Columns

    @property
    def synthetic(self) -> bool:
        """Always false: these may be patients."""
        return False

    def describe(self) -> str:
        """Kind and place."""
        return f"nifti {self.folder}"

    def images(self) -> Iterator[SourceImage]:
        """Every file in imagesTr, then every mask without one; or every row of the labels file.

        Raises:
            DataError: a folder is missing, empty or unreadable; a patient has two volumes; the labels file is missing
                or unreadable, or lacks a column.
        """
        masks: dict[str, list[str]] = defaultdict(list)
        for mask in self._files(MASKS):
            masks[stem_of(mask)].append(mask)
        of_patient: dict[str, str] = {}
        for file, row in self._volumes():
            patient = row.get("patient", stem_of(file))
            if of_patient.setdefault(patient, file) != file:
                raise DataError(
                    f"Patient {patient} has two volumes in {self.folder / IMAGES}, {of_patient[patient]} and {file}; "
                    "keep one of them."
                )
            yield self._image(file, masks.pop(stem_of(file), []), patient, row)
        if self.labels_file is None:
            for mask in sorted(name for names in masks.values() for name in names):
                read = partial(refuse, f"is a mask without a volume in {IMAGES}")
                yield SourceImage(file=f"{MASKS}/{mask}", label="", patient="", read=read)

    def _volumes(self) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Each volume's name below imagesTr, with what the labels file says."""
        files = self._files(IMAGES)
        if self.labels_file is None:
            yield from ((file, {}) for file in files)
            return
        seen: set[str] = set()
        for row in rows_of(self.folder, self.labels_file, self.columns, labelled=False):
            file = os.path.relpath(self.folder / row["path"], self.folder / IMAGES) if row["path"] else ""
            if file not in files:
                raise DataError(
                    f"The labels file {self.folder / self.labels_file} names the volume {row['path']!r}, which is not "
                    f"in {self.folder / IMAGES}; correct its path, as in {IMAGES}/{files[0]}."
                )
            if file in seen:
                raise DataError(
                    f"The labels file {self.folder / self.labels_file} lists {row['path']} twice; keep one row."
                )
            seen.add(file)
            yield file, row
        if not seen:
            raise DataError(f"The labels file {self.folder / self.labels_file} has no row; list the volumes in it.")

    def _files(self, name: str) -> list[str]:
        place = self.folder / name
        if not place.is_dir():
            raise DataError(
                f"The data folder {self.folder} has no folder {name}; put volumes into {IMAGES} and masks of the same "
                f"names into {MASKS}, or correct ingest.folder in params.yaml."
            )
        files = list(files_below(place))
        if not files:
            raise DataError(f"The data folder {place} is empty; put NIfTI files there.")
        return files

    def _image(self, file: str, masks: Sequence[str], patient: str, row: Mapping[str, str]) -> SourceImage:
        read: Callable[[], bytes] = partial(read_file, self.folder / IMAGES / file, most_bytes=MOST_FILE_BYTES)
        if not masks:
            read = partial(refuse, f"has no mask in {MASKS}")
        elif len(masks) > 1:
            read = partial(refuse, f"has two masks in {MASKS}, {' and '.join(masks)}")
        mask = masks[0] if masks else ""
        return SourceImage(
            file=file,
            label="",
            patient=patient,
            hospital=row.get("hospital", ""),
            split=row.get("split", ""),
            read=read,
            mask=mask,
            read_mask=partial(read_file, self.folder / MASKS / mask, most_bytes=MOST_FILE_BYTES),
        )


def check_names(folder: Path, meaning: Mapping[str, Sequence[int]]) -> None:
    """Hold the names that params.yaml gives to values of masks against those of dataset.json, if there is one.

    Names that only one of them has are nobody's mistake: everybody may call a structure as they like.

    Raises:
        DataError: both know a name, but for different values; or dataset.json is broken.
    """
    path = folder / ABOUT
    if not path.is_file():
        return
    try:
        labels = json.loads(path.read_bytes()).get("labels", {}).items()
    except (ValueError, AttributeError) as error:  # no JSON, or no tables
        raise DataError(f"{path} has no table of labels, as in {{'1': 'liver'}}; mend it, or take it away.") from error
    # The Decathlon writes {"1": "liver"}, nnU-Net since its second version {"liver": 1}.
    told = [(name, value) if isinstance(value, int) else (value, name) for name, value in labels]
    value_of = {str(name).strip().casefold(): str(value) for name, value in told}
    for name, values in meaning.items():
        value = value_of.get(name.casefold())
        if value is not None and value not in map(str, values):
            raise DataError(
                f"{path} says that {value} is {name}, but by ingest.classes {', '.join(map(str, values))} would be; "
                "give the classes in the order of their values, or say them in ingest.label_values."
            )
