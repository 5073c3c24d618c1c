"""Accept or quarantine every file of a source, and lay the accepted ones out in one folder."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from primia.config import Ingest, Task
from primia.data.accepting import Accepted, Meaning, accept, printable
from primia.data.decoding import RefusedFileError
from primia.data.image_folder import ImageFolder
from primia.data.manifest import ManifestRow, write_manifest
from primia.data.masks import meaning_of
from primia.data.nifti_folder import NiftiFolder, check_names
from primia.data.phantom_source import LUNG_VALUE, PhantomSource
from primia.data.sources import Source
from primia.errors import DataError
from primia.files import folder_in_progress, write_csv, write_json

QUARANTINE = Path(".state/ingest/quarantine.csv")


@dataclass(frozen=True)
class IngestSummary:
    """What ingest found; counts are of images unless named otherwise.

    `duplicates` are accepted images whose pixels equal those of an earlier one; `fingerprint` is the SHA-256
    over the sorted SHA-256 sums of the accepted files.
    """

    source: str
    synthetic: bool
    images: int
    patients: int
    dropped_for_overlap: int
    quarantined: int
    duplicates: int
    fingerprint: str


_Quarantine = list[tuple[str, str]]  # (file, reason); a labels file can name one path twice


def ingest(
    settings: Ingest,
    *,
    task: Task = "classification",
    hospitals: Sequence[str],
    target: Path,
    quarantine_path: Path = QUARANTINE,
    on_progress: Callable[[int], None] | None = None,
) -> IngestSummary:
    """Check every image of the source and write manifest.csv, quarantine.csv, source.json and images/ to `target`.

    For segmentation, images come with masks, which go to masks/, and source.json says under `label_values` which of
    their values are which class. The user's files are read and copied, never linked or changed. An earlier `target`
    stays as it was unless everything succeeds; the same input gives the same bytes. `hospitals` are those the phantoms
    come from; `on_progress` is called with the number of files checked so far.

    Raises:
        DataError: the source cannot be read; more than `max_refused` files are refused (the complete list is
            then in `quarantine_path`); a class has no image; a patient is at two hospitals, has two volumes, or is in
            both training and test while `overlap` is `refuse`; a structure has another value in dataset.json; the disk
            is full.
    """
    source = _open_source(settings, task=task, hospitals=hospitals, target=target)
    meaning = _meaning(settings) if task == "segmentation" else {}
    if settings.source == "nifti" and settings.label_values is None:
        check_names(Path(settings.folder), meaning)
    with folder_in_progress(target) as folder:
        accepted, quarantine, seen = _check_files(source, settings, meaning, folder=folder, on_progress=on_progress)
        if not settings.mixed_sizes and settings.source != "nifti":  # volumes are brought to one spacing
            accepted = _quarantine_odd_sizes(accepted, quarantine)
        if settings.source == "nifti":
            accepted = _quarantine_twins(accepted, quarantine)
        if len(quarantine) > settings.max_refused:
            raise _too_many_refused(source, settings, quarantine=quarantine, seen=seen, path=quarantine_path)
        rows = [image.row for image in accepted]
        _check_hospitals(rows)
        overlapping = _overlapping_patients(rows)
        if overlapping and settings.overlap == "refuse":
            raise DataError(
                f"Patient {min(overlapping)} has images in both training and test "
                f"({len(overlapping)} such patients in {source.describe()}); correct the split column, or set "
                "ingest.overlap to drop_from_training to leave out their training images."
            )
        kept = [image for image in accepted if image.row.patient not in overlapping or image.row.split == "test"]
        _check_classes(kept, settings=settings)
        summary = _summarise(source, kept, dropped=len(accepted) - len(kept), quarantined=len(quarantine))
        _keep_only(folder, {folder / path for image in kept for path in (image.row.path, image.row.mask)})
        write_manifest(folder / "manifest.csv", [image.row for image in kept])
        write_csv(folder / "quarantine.csv", ("file", "reason"), sorted(quarantine))
        masks = {"label_values": meaning} if meaning else {}
        write_json(folder / "source.json", {"classes": settings.classes, **vars(summary), **masks})
    return summary


def _open_source(settings: Ingest, *, task: Task, hospitals: Sequence[str], target: Path) -> Source:
    if settings.source == "phantom":
        return PhantomSource(settings.phantom, hospitals, masks=task == "segmentation")
    assert (settings.source == "nifti") == (task == "segmentation"), "primia.consistency sees to it"
    folder = Path(settings.folder)
    here, there = folder.resolve(), target.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        raise DataError(
            f"The data folder {folder} and {target}, which ingest replaces, lie within each other; move your images "
            "to a folder of their own and correct ingest.folder."
        )
    kind = NiftiFolder if settings.source == "nifti" else ImageFolder
    return kind(folder, settings.labels_file, settings.columns)


def _meaning(settings: Ingest) -> Meaning:
    if settings.source == "phantom":
        return meaning_of(settings.classes, {settings.classes[1]: (LUNG_VALUE,)})
    return meaning_of(settings.classes, settings.label_values)


def _check_files(
    source: Source, settings: Ingest, meaning: Meaning, *, folder: Path, on_progress: Callable[[int], None] | None
) -> tuple[list[Accepted], _Quarantine, int]:
    """Decode each file once and copy the very bytes that were checked."""
    accepted: list[Accepted] = []
    quarantine: _Quarantine = []
    seen = 0
    for seen, image in enumerate(source.images(), start=1):
        try:
            one, files = accept(image, settings, meaning)
        except RefusedFileError as refusal:
            quarantine.append((printable(image.file), str(refusal)))
        else:
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            accepted.append(one)
        if on_progress is not None:
            on_progress(seen)
    return sorted(accepted, key=lambda one: one.row.image), quarantine, seen


def _quarantine_odd_sizes(accepted: list[Accepted], quarantine: _Quarantine) -> list[Accepted]:
    if not accepted:
        return accepted
    (usual, _), *_ = Counter(image.shape for image in accepted).most_common(1)
    for image in accepted:
        if image.shape != usual:
            quarantine.append((image.row.image, f"is {_size(image.shape)} where most files are {_size(usual)}"))
    return [image for image in accepted if image.shape == usual]


def _quarantine_twins(accepted: list[Accepted], quarantine: _Quarantine) -> list[Accepted]:
    """A volume is a patient: the same voxels twice are one patient, who would count as two."""
    first: dict[bytes, Accepted] = {}
    for image in accepted:
        if (other := first.setdefault(image.pixels, image)) is not image:
            reason = f"shows the same voxels as {other.row.image}, so that one patient would count as two"
            quarantine.append((image.row.image, reason))
    return list(first.values())


def _size(shape: tuple[int, int, int]) -> str:
    height, width, bits = shape
    return f"{width} x {height} pixels of {bits} bits"


def _too_many_refused(source: Source, settings: Ingest, *, quarantine: _Quarantine, seen: int, path: Path) -> DataError:
    write_csv(path, ("file", "reason"), sorted(quarantine))
    first, reason = min(quarantine)
    return DataError(
        f"{len(quarantine)} of {seen} files of {source.describe()} are refused and ingest.max_refused is "
        f"{settings.max_refused}; the first, {first}, {reason}. All of them are listed in {path}: mend or remove them, "
        "add missing labels to ingest.classes, set ingest.mixed_sizes to true where only sizes differ, "
        "or raise ingest.max_refused to go on without them."
    )


def _check_classes(kept: Iterable[Accepted], *, settings: Ingest) -> None:
    present = {name for image in kept for name in image.shows}
    for name in settings.classes:
        if name not in present:
            raise DataError(
                f"No accepted image has the class {name}; add images of it or remove it from ingest.classes."
            )


def _check_hospitals(rows: Iterable[ManifestRow]) -> None:
    hospital: dict[str, str] = {}
    for row in rows:
        if row.hospital and hospital.setdefault(row.patient, row.hospital) != row.hospital:
            raise DataError(
                f"Patient {row.patient} is listed at two hospitals, {hospital[row.patient]} and {row.hospital} "
                f"(file {row.image}); correct the hospital column or give two different patients two ids."
            )


def _overlapping_patients(rows: Iterable[ManifestRow]) -> set[str]:
    """Patients with images both in test and in training or validation."""
    kinds: dict[str, set[bool]] = defaultdict(set)
    for row in rows:
        kinds[row.patient].add(row.split == "test")
    return {patient for patient, kind in kinds.items() if len(kind) == 2}


def _summarise(source: Source, kept: Sequence[Accepted], *, dropped: int, quarantined: int) -> IngestSummary:
    sums = sorted(image.row.sha256 for image in kept)
    return IngestSummary(
        source=source.describe(),
        synthetic=source.synthetic,
        images=len(kept),
        patients=len({image.row.patient for image in kept}),
        dropped_for_overlap=dropped,
        quarantined=quarantined,
        duplicates=len(kept) - len({image.pixels for image in kept}),
        fingerprint=hashlib.sha256("\n".join(sums).encode()).hexdigest(),
    )


def _keep_only(folder: Path, wanted: set[Path]) -> None:
    """Delete copies of images that were left out after they had been copied, and folders that became empty."""
    for path in sorted((*folder.glob("images/**/*"), *folder.glob("masks/**/*")), reverse=True):  # children first
        if path.is_dir():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in wanted:
            path.unlink()
