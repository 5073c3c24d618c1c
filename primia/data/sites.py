"""From accepted images to each hospital's training and validation sets and the central test set."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from primia.config import Preprocess
from primia.data.dealing import Patient, Place, deal, majority_class
from primia.data.image_set import ImageSet, save_image_set
from primia.data.manifest import ManifestRow, read_manifest
from primia.data.origin import origin_of, write_origin
from primia.data.samples import Sample, load_sample
from primia.data.volumes import Lost
from primia.errors import DataError
from primia.files import folder_in_progress, read_json, write_json

MOST_LOST = 0.01  # share of a structure's voxels that may lie outside of the images


def build_site_sets(
    settings: Preprocess,
    *,
    classes: Sequence[str],
    raw: Path,
    sites: Path,
    test: Path,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Read what ingest wrote to `raw`; write `sites`/<hospital>/{train,validation}.safetensors and `test`.

    Images with masks become sets of slices or volumes with a class for every pixel. Every hospital gets an origin.json,
    too, which says from which source its patients come, and so does the test set. Both folders also get a summary.json
    with the counts per hospital, split and class. Nothing of an earlier run changes unless everything succeeds; the
    same input gives the same bytes. `on_progress` is called with the number of files done and of all files.

    Returns:
        {"hospitals": {hospital: {split: counts}}, "test": counts}, where counts is {"images", "patients",
        "images_by_class": {class: images}}, or for masks {"images", "patients", "voxels_by_class": {class: voxels},
        "lost_by_class": {structure: share of its voxels that lies outside of the images}}.

    Raises:
        DataError: the manifest or an image is missing or damaged, the patients cannot be dealt (see
            `primia.data.dealing.deal`), more than 1 % of a structure, of all patients or of the test patients,
            or all of a patient's structure would be cut off, or the disk is full.
    """
    rows = read_manifest(raw / "manifest.csv")
    label_values = _label_values(raw, rows, classes=classes)
    origin = origin_of(raw, rows)
    patients = _patients(rows, classes=classes)
    home = {patient.name: patient.hospital for patient in patients}
    places = deal(patients, settings, classes=None if label_values else classes)
    by_place: dict[Place, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        by_place[places[row.patient]].append(row)
    done, lost = 0, Lost()

    def build(place: Place, path: Path) -> dict[str, Any]:
        nonlocal done, lost
        samples: list[Sample] = []
        for row in by_place[place]:
            samples.append(load_sample(row, settings, raw=raw, classes=classes, label_values=label_values))
            _check_something_left(samples[-1].lost, row, settings, structures=classes[1:])
            done += 1
            if on_progress is not None:
                on_progress(done, len(rows))
        here = sum((sample.lost for sample in samples), Lost())
        lost += here
        if place.split == "test":
            _check_lost(
                here, settings, structures=classes[1:], whose="of the test patients, who are judged on the rest, "
            )
        image_set = _image_set(samples, by_place[place], classes=classes)
        if place.split == "test" and settings.dealing == "natural":
            image_set = replace(image_set, hospitals=tuple(home[patient] for patient in image_set.patient_ids))
        save_image_set(path, image_set)
        return _counts(image_set, lost=here)

    with folder_in_progress(test) as test_folder, folder_in_progress(sites) as sites_folder:
        hospitals: dict[str, dict[str, Any]] = {name: {} for name in settings.hospitals}
        for hospital, counts in hospitals.items():
            for split in ("train", "validation"):
                counts[split] = build(Place(hospital, split), sites_folder / hospital / f"{split}.safetensors")
            write_origin(sites_folder / hospital, origin)
        summary = {"hospitals": hospitals, "test": build(Place("", "test"), test_folder / "test.safetensors")}
        _check_lost(lost, settings, structures=classes[1:])
        about: dict[str, Any] = {"classes": list(classes), "pixels": settings.pixels}
        if settings.volume is not None:
            about["volume"] = settings.volume.model_dump(mode="json")
        write_json(sites_folder / "summary.json", {**about, "hospitals": hospitals})
        write_json(test_folder / "summary.json", {**about, "test": summary["test"]})
        write_origin(test_folder, origin.model_copy(update={"marks": frozenset()}))
    return summary


def _label_values(raw: Path, rows: Sequence[ManifestRow], *, classes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Which values of the mask files are which class, in the order of `classes`; empty where images have labels."""
    if not all(row.mask for row in rows):
        _check_labels(rows, classes=classes, raw=raw)
        return {}
    path = raw / "source.json"
    told = read_json(path).get("label_values", {})
    if set(told) != set(classes):
        raise DataError(
            f"{path} knows the structures {', '.join(told) or '(none)'}, but ingest.classes names "
            f"{', '.join(classes)}; run the ingest stage again (dvc repro ingest)."
        )
    return {name: tuple(told[name]) for name in classes}


def _check_labels(rows: Sequence[ManifestRow], *, classes: Sequence[str], raw: Path) -> None:
    for row in rows:
        if row.label not in classes:
            raise DataError(
                f"{raw / 'manifest.csv'} gives {row.image} the class {row.label}, which ingest.classes does not name; "
                "run the ingest stage again (dvc repro ingest)."
            )


def _patients(rows: Sequence[ManifestRow], *, classes: Sequence[str]) -> list[Patient]:
    of_patient: dict[str, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        of_patient[row.patient].append(row)
    return [
        Patient(
            name=name,
            label=0 if images[0].mask else majority_class(classes.index(row.label) for row in images),
            hospital=next((row.hospital for row in images if row.hospital), ""),
            in_test=any(row.split == "test" for row in images),
        )
        for name, images in of_patient.items()
    ]


def _image_set(samples: Sequence[Sample], rows: Sequence[ManifestRow], *, classes: Sequence[str]) -> ImageSet:
    patients = sorted({row.patient for row in rows})
    number = {name: i for i, name in enumerate(patients)}
    of_images = [number[row.patient] for row, sample in zip(rows, samples, strict=True) for _ in sample.image_ids]
    return ImageSet(
        images=torch.cat([sample.images for sample in samples]),
        labels=torch.cat([sample.labels for sample in samples]),
        patients=torch.tensor(of_images, dtype=torch.int64),
        image_ids=tuple(name for sample in samples for name in sample.image_ids),
        patient_ids=tuple(patients),
        classes=tuple(classes),
    )


def _counts(image_set: ImageSet, *, lost: Lost) -> dict[str, Any]:
    found = torch.bincount(image_set.labels.flatten(), minlength=len(image_set.classes)).tolist()
    by_class = dict(zip(image_set.classes, found, strict=True))
    about = {"images": len(image_set), "patients": len(image_set.patient_ids)}
    if not image_set.masks:
        return {**about, "images_by_class": by_class}
    lost_by_class = dict(zip(image_set.classes[1:], lost.shares, strict=False))  # of pictures nothing is cut off
    return {**about, "voxels_by_class": by_class, "lost_by_class": lost_by_class}


def _check_something_left(lost: Lost, row: ManifestRow, settings: Preprocess, *, structures: Sequence[str]) -> None:
    for name, entirely in zip(structures, lost.entirely, strict=False):
        if entirely:
            raise DataError(
                f"All of {name} that {row.mask} marks would be cut off from the images of patient {row.patient}; "
                f"{_enlarge(settings)}, or leave the patient out."
            )


def _check_lost(lost: Lost, settings: Preprocess, *, structures: Sequence[str], whose: str = "") -> None:
    for name, share in zip(structures, lost.shares, strict=False):
        if share > MOST_LOST:
            raise DataError(f"{share:.1%} of the voxels of {name} {whose}would be cut off; {_enlarge(settings)}.")


def _enlarge(settings: Preprocess) -> str:
    assert settings.volume is not None
    depth = "" if settings.volume.depth is None else f", preprocess.volume.depth ({settings.volume.depth})"
    return (
        f"raise preprocess.pixels ({settings.pixels}){depth} or preprocess.volume.spacing "
        f"({list(settings.volume.spacing)})"
    )
