"""From accepted images to each hospital's training and validation sets and the central test set."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from primia.config import Preprocess
from primia.data.dealing import Patient, Place, deal, majority_class
from primia.data.image_set import ImageSet, save_image_set
from primia.data.manifest import ManifestRow, read_manifest
from primia.data.origin import origin_of, write_origin
from primia.data.preprocess import load_image
from primia.errors import DataError
from primia.files import folder_in_progress, write_json


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

    Every hospital gets an origin.json, too, which says from which source its patients come. Both folders also get a
    summary.json with the counts per hospital, split and class. Nothing of an earlier run changes unless everything
    succeeds; the same input gives the same bytes. `on_progress` is called with the number of images done and of all
    images.

    Returns:
        {"hospitals": {hospital: {split: counts}}, "test": counts}, where counts is {"images", "patients",
        "images_by_class": {class: images}}.

    Raises:
        DataError: the manifest or an image is missing or damaged, the patients cannot be dealt (see
            `primia.data.dealing.deal`), or the disk is full.
    """
    rows = read_manifest(raw / "manifest.csv")
    _check_labels(rows, classes=classes, raw=raw)
    origin = origin_of(raw, rows)
    places = deal(_patients(rows, classes=classes), settings, classes=classes)
    by_place: dict[Place, list[ManifestRow]] = defaultdict(list)
    for row in rows:
        by_place[places[row.patient]].append(row)
    done = 0

    def build(place: Place) -> ImageSet:
        nonlocal done
        members = by_place[place]
        images = torch.empty((len(members), 1, settings.pixels, settings.pixels), dtype=torch.float16)
        for i, row in enumerate(members):
            images[i] = load_image(raw / row.path, pixels=settings.pixels)
            done += 1
            if on_progress is not None:
                on_progress(done, len(rows))
        return _image_set(images, members, classes=classes)

    with folder_in_progress(test) as test_folder, folder_in_progress(sites) as sites_folder:
        hospitals: dict[str, dict[str, Any]] = {name: {} for name in settings.hospitals}
        for hospital, counts in hospitals.items():
            for split in ("train", "validation"):
                image_set = build(Place(hospital, split))
                save_image_set(sites_folder / hospital / f"{split}.safetensors", image_set)
                counts[split] = _counts(image_set)
            write_origin(sites_folder / hospital, origin)
        image_set = build(Place("", "test"))
        save_image_set(test_folder / "test.safetensors", image_set)
        summary = {"hospitals": hospitals, "test": _counts(image_set)}
        about = {"classes": list(classes), "pixels": settings.pixels}
        write_json(sites_folder / "summary.json", {**about, "hospitals": hospitals})
        write_json(test_folder / "summary.json", {**about, "test": summary["test"]})
    return summary


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
            label=majority_class(classes.index(row.label) for row in images),
            hospital=next((row.hospital for row in images if row.hospital), ""),
            in_test=any(row.split == "test" for row in images),
        )
        for name, images in of_patient.items()
    ]


def _image_set(images: torch.Tensor, rows: Sequence[ManifestRow], *, classes: Sequence[str]) -> ImageSet:
    patients = sorted({row.patient for row in rows})
    number = {name: i for i, name in enumerate(patients)}
    return ImageSet(
        images=images,
        labels=torch.tensor([classes.index(row.label) for row in rows], dtype=torch.int64),
        patients=torch.tensor([number[row.patient] for row in rows], dtype=torch.int64),
        image_ids=tuple(row.image for row in rows),
        patient_ids=tuple(patients),
        classes=tuple(classes),
    )


def _counts(image_set: ImageSet) -> dict[str, Any]:
    images = Counter(image_set.labels.tolist())
    return {
        "images": len(image_set),
        "patients": len(image_set.patient_ids),
        "images_by_class": {name: images[i] for i, name in enumerate(image_set.classes)},
    }
