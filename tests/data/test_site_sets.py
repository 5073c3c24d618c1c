import errno
import json
import os
from pathlib import Path

import pytest
import torch
from image_files import class_folders, write_image

from primia.config import Ingest, Preprocess
from primia.data.image_set import ImageSet, load_image_set
from primia.data.ingest import ingest
from primia.data.manifest import read_manifest
from primia.data.preprocess import load_image
from primia.data.sites import build_site_sets
from primia.errors import DataError
from primia.files import sha256_of_folder

HOSPITALS = ("north", "river", "hill")
CLASSES = ("normal", "viral")


@pytest.fixture
def raw(tmp_path) -> Path:
    class_folders(tmp_path / "mine", patients=15)
    write_image(tmp_path / "mine" / "viral" / "n0" / "third.png", 999)  # n0 is mostly normal
    settings = Ingest(source="image_folder", folder=str(tmp_path / "mine"), classes=CLASSES)
    ingest(settings, hospitals=(), target=tmp_path / "raw")
    return tmp_path / "raw"


def build(raw: Path, **changes) -> dict:
    settings = Preprocess(**{"pixels": 16, "hospitals": HOSPITALS, "dealing": "iid", **changes})
    return build_site_sets(settings, classes=CLASSES, raw=raw, sites=raw.parent / "sites", test=raw.parent / "test")


def all_sets(raw: Path) -> dict[str, ImageSet]:
    sets = {
        f"{name}/{split}": load_image_set(raw.parent / "sites" / name / f"{split}.safetensors")
        for name in HOSPITALS
        for split in ("train", "validation")
    }
    return {**sets, "test": load_image_set(raw.parent / "test" / "test.safetensors")}


def test_every_image_lands_once_and_no_patient_twice(raw):
    build(raw)
    sets = all_sets(raw)
    images = [name for image_set in sets.values() for name in image_set.image_ids]
    patients = [name for image_set in sets.values() for name in image_set.patient_ids]
    rows = read_manifest(raw / "manifest.csv")
    assert sorted(images) == [row.image for row in rows]
    assert sorted(patients) == sorted({row.patient for row in rows}) and len(patients) == 30


def test_a_set_holds_each_images_pixels_label_and_patient(raw):
    build(raw)
    rows = {row.image: row for row in read_manifest(raw / "manifest.csv")}
    for image_set in all_sets(raw).values():
        assert image_set.classes == CLASSES
        for i, name in enumerate(image_set.image_ids):
            assert CLASSES[int(image_set.labels[i])] == rows[name].label
            assert image_set.patient_ids[int(image_set.patients[i])] == rows[name].patient
            assert torch.equal(image_set.images[i], load_image(raw / rows[name].path, pixels=16))


def test_only_the_test_set_says_from_which_hospital_its_patients_come_and_only_where_they_come_from_one(tmp_path):
    settings = Ingest(source="phantom", folder="", classes=("normal", "bacterial", "viral"), phantom={"patients": 40})
    ingest(settings, hospitals=HOSPITALS, target=tmp_path / "raw")
    home = {row.patient: row.hospital for row in read_manifest(tmp_path / "raw" / "manifest.csv")}
    for dealing in ("natural", "iid"):
        build_site_sets(
            Preprocess(pixels=16, hospitals=HOSPITALS, dealing=dealing),
            classes=settings.classes,
            raw=tmp_path / "raw",
            sites=tmp_path / "sites",
            test=tmp_path / "test",
        )
        sets = all_sets(tmp_path / "raw")
        test = sets.pop("test")
        assert not any(image_set.hospitals for image_set in sets.values())
        assert test.hospitals == (tuple(home[name] for name in test.patient_ids) if dealing == "natural" else ())
    assert set(home.values()) == set(HOSPITALS)


def test_the_summary_counts_what_the_files_hold(raw):
    summary = build(raw)
    sites = json.loads((raw.parent / "sites" / "summary.json").read_text())
    test = json.loads((raw.parent / "test" / "summary.json").read_text())
    assert sites == {"classes": ["normal", "viral"], "pixels": 16, "hospitals": summary["hospitals"]}
    assert test == {"classes": ["normal", "viral"], "pixels": 16, "test": summary["test"]}
    for name, image_set in all_sets(raw).items():
        hospital, _, split = name.partition("/")
        counts = summary["hospitals"][hospital][split] if split else summary["test"]
        assert counts == {
            "images": len(image_set),
            "patients": len(image_set.patient_ids),
            "images_by_class": {c: int((image_set.labels == i).sum()) for i, c in enumerate(CLASSES)},
        }


def test_the_same_input_gives_the_same_bytes_and_old_hospitals_go(raw):
    build(raw)
    before = [sha256_of_folder(raw.parent / name) for name in ("sites", "test")]
    build(raw, hospitals=("lake", "north"))
    assert sorted(os.listdir(raw.parent / "sites")) == ["lake", "north", "summary.json"]
    build(raw)
    assert [sha256_of_folder(raw.parent / name) for name in ("sites", "test")] == before


def test_a_damaged_image_leaves_the_earlier_sets_as_they_were(raw):
    build(raw)
    before = [sha256_of_folder(raw.parent / name) for name in ("sites", "test")]
    (raw / read_manifest(raw / "manifest.csv")[-1].path).write_bytes(b"")
    with pytest.raises(DataError, match=r"is no PNG or JPEG image|truncated or damaged"):
        build(raw, seed=2)
    assert [sha256_of_folder(raw.parent / name) for name in ("sites", "test")] == before
    assert sorted(os.listdir(raw.parent)) == ["mine", "raw", "sites", "test"]


def test_a_full_disk_is_one_sentence(raw, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"The disk is full while writing .*; free some space"):
        build(raw)
    assert sorted(os.listdir(raw.parent)) == ["mine", "raw"]


def test_a_missing_manifest_names_its_stage(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.csv is missing; run the ingest stage"):
        build(tmp_path / "raw")


def test_a_manifest_cut_short_or_of_other_classes_is_refused(raw):
    manifest = raw / "manifest.csv"
    whole = manifest.read_text()
    manifest.write_text(whole[:-12])
    with pytest.raises(DataError, match="is no manifest"):
        build(raw)
    manifest.write_text(whole.replace(",viral,", ",measles,"))
    with pytest.raises(DataError, match=r"the class measles, which ingest\.classes does not name"):
        build(raw)


def test_progress_reaches_the_number_of_images(raw):
    seen: list[tuple[int, int]] = []
    settings = Preprocess(pixels=16, hospitals=HOSPITALS, dealing="iid")
    build_site_sets(
        settings,
        classes=CLASSES,
        raw=raw,
        sites=raw.parent / "sites",
        test=raw.parent / "test",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(i, 61) for i in range(1, 62)]
