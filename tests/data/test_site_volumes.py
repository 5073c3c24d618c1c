"""Hospitals get slices or volumes with a class for every pixel."""

import gzip
import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from nifti_files import decathlon, write_pair

from primia.config import Ingest, Phantom, Preprocess, Volume
from primia.data.image_set import ImageSet, load_image_set
from primia.data.ingest import ingest
from primia.data.manifest import read_manifest
from primia.data.sites import build_site_sets
from primia.data.volumes import place, prepare, restore
from primia.errors import DataError
from primia.files import sha256_of_folder

REAL_DATA = Path(os.environ.get("PRIMIA_REAL_DATA", Path(__file__).parents[2] / "../shared/data"))
HOSPITALS = ("north", "river", "hill")
CLASSES = ("background", "anterior", "posterior")
FLAT = Volume(spacing=(0.9, 1.0, 1.2))
DEEP = Volume(spacing=(0.9, 1.0, 1.2), depth=16)


@pytest.fixture
def raw(tmp_path) -> Path:
    decathlon(tmp_path / "mine", patients=15)
    settings = Ingest(source="nifti", folder=str(tmp_path / "mine"), classes=CLASSES)
    ingest(settings, task="segmentation", hospitals=(), target=tmp_path / "raw")
    return tmp_path / "raw"


def build(raw: Path, *, classes=CLASSES, **changes) -> dict:
    settings = Preprocess(**{"pixels": 24, "volume": FLAT, "hospitals": HOSPITALS, **changes})
    return build_site_sets(settings, classes=classes, raw=raw, sites=raw.parent / "sites", test=raw.parent / "test")


def all_sets(raw: Path) -> dict[str, ImageSet]:
    sets = {
        f"{name}/{split}": load_image_set(raw.parent / "sites" / name / f"{split}.safetensors")
        for name in HOSPITALS
        for split in ("train", "validation")
    }
    return {**sets, "test": load_image_set(raw.parent / "test" / "test.safetensors")}


def test_every_patient_lands_once_with_slices_in_order_upwards(raw):
    build(raw)
    names: list[str] = []
    for image_set in all_sets(raw).values():
        assert image_set.masks and (image_set.pixels, image_set.depth) == (24, None)
        for i, name in enumerate(image_set.patient_ids):
            own = image_set.patients == i
            where = own.nonzero().flatten()
            assert torch.equal(where, torch.arange(int(where[0]), int(where[-1]) + 1))
            ids = [image_set.image_ids[k] for k in where]
            assert ids == [f"{name}/{z:03d}" for z in range(14)]
        names += image_set.patient_ids
    assert sorted(names) == [f"case_{i:03d}" for i in range(15)]


def test_the_slices_of_a_patient_stacked_are_its_mask_again(raw):
    build(raw)
    test = all_sets(raw)["test"]
    for i, name in enumerate(test.patient_ids):
        image = nibabel.load(raw / "images" / f"{name}.nii.gz")
        seen, placement = prepare(image, FLAT, pixels=24)
        assert torch.equal(test.images[test.patients == i], seen.movedim(-1, 0))
        stacked = test.labels[test.patients == i].movedim(0, -1)
        original = np.asarray(nibabel.load(raw / "masks" / f"{name}.nii.gz").dataobj)
        assert np.array_equal(restore(stacked, placement), original)


def test_with_a_depth_every_patient_is_one_image(raw):
    build(raw, volume=DEEP)
    test = all_sets(raw)["test"]
    assert test.images.shape == (3, 1, 24, 24, 16) and test.labels.shape == (3, 24, 24, 16)
    assert test.image_ids == test.patient_ids
    for i, name in enumerate(test.patient_ids):
        placement = place(nibabel.load(raw / "images" / f"{name}.nii.gz"), DEEP, pixels=24)
        original = np.asarray(nibabel.load(raw / "masks" / f"{name}.nii.gz").dataobj)
        assert np.array_equal(restore(test.labels[i], placement), original)


def test_the_summary_counts_voxels_and_what_was_lost(raw):
    summary = build(raw)
    assert json.loads((raw.parent / "test" / "summary.json").read_text()) == {
        "classes": list(CLASSES),
        "pixels": 24,
        "volume": {"spacing": [0.9, 1.0, 1.2], "window": None, "depth": None},
        "test": summary["test"],
    }
    for name, image_set in all_sets(raw).items():
        hospital, _, split = name.partition("/")
        counts = summary["hospitals"][hospital][split] if split else summary["test"]
        assert counts == {
            "images": len(image_set),
            "patients": len(image_set.patient_ids),
            "voxels_by_class": {c: int((image_set.labels == i).sum()) for i, c in enumerate(CLASSES)},
            "lost_by_class": {"anterior": 0.0, "posterior": 0.0},
        }


def test_images_that_cut_structures_off_are_refused_by_name_and_nothing_is_written(raw):
    cut = r"% of the voxels of anterior .* raise preprocess\.pixels \(16\) or .*spacing \(\[0\.6"
    with pytest.raises(DataError, match=cut):
        build(raw, pixels=16, volume=Volume(spacing=(0.6, 0.6, 1.2)))
    with pytest.raises(DataError, match=r"preprocess\.volume\.depth \(8\)"):
        build(raw, volume=Volume(spacing=(0.9, 1.0, 0.6), depth=8))
    assert sorted(os.listdir(raw.parent)) == ["mine", "raw"]


def test_a_single_training_patient_who_is_cut_off_counts(raw):
    build(raw)
    name = all_sets(raw)["north/train"].patient_ids[0]
    write_pair(raw.parent / "mine", name, seed=1, shape=(60, 22, 14))
    settings = Ingest(source="nifti", folder=str(raw.parent / "mine"), classes=CLASSES)
    ingest(settings, task="segmentation", hospitals=(), target=raw)
    with pytest.raises(DataError, match=r"% of the voxels of \w+ would be cut off"):
        build(raw)


def test_a_single_test_patient_who_is_cut_off_counts_among_the_test_patients(raw):
    build(raw, validation_fraction=0.5)
    name = all_sets(raw)["test"].patient_ids[0]
    row = next(row for row in read_manifest(raw / "manifest.csv") if row.patient == name)
    mask = nibabel.load(raw / row.mask)
    values = np.asarray(mask.dataobj).copy()
    rim = [slice(None)] * 3
    for axis, length in enumerate(values.shape):
        if length == max(values.shape):
            rim[axis] = slice(0, 1)  # of 22 voxels, which 18 pixels cannot show
    values[tuple(rim)] = 1
    (raw / row.mask).write_bytes(gzip.compress(nibabel.Nifti1Image(values, mask.affine).to_bytes()))
    with pytest.raises(DataError, match=r"% of the voxels of anterior of the test patients, .* would be cut off"):
        build(raw, pixels=20, validation_fraction=0.5)


def test_a_patient_of_whom_a_structure_would_be_cut_off_is_named(raw):
    row = read_manifest(raw / "manifest.csv")[5]
    image = nibabel.load(raw / row.path)
    rim = np.zeros(image.shape, np.uint8)
    rim[0, 0, :] = 1
    (raw / row.mask).write_bytes(gzip.compress(nibabel.Nifti1Image(rim, image.affine).to_bytes()))
    with pytest.raises(
        DataError,
        match=r"All of anterior that masks/case_005\.nii\.gz marks would be cut off .* raise .*leave the patient out",
    ):
        build(raw, pixels=16)


def test_the_same_volumes_give_the_same_sets(raw):
    build(raw)
    before = [sha256_of_folder(raw.parent / name) for name in ("sites", "test")]
    build(raw, seed=2)
    assert sha256_of_folder(raw.parent / "test") != before[1]
    build(raw)
    assert [sha256_of_folder(raw.parent / name) for name in ("sites", "test")] == before


def test_a_file_that_was_damaged_since_is_named(raw):
    row = read_manifest(raw / "manifest.csv")[3]
    whole = (raw / row.mask).read_bytes()
    (raw / row.mask).write_bytes(whole[:50])
    with pytest.raises(DataError, match=r"masks/case_003\.nii\.gz is truncated or damaged"):
        build(raw)
    other = read_manifest(raw / "manifest.csv")[4]
    (raw / row.mask).write_bytes((raw / other.mask).read_bytes())
    with pytest.raises(DataError, match=r"images/case_003\.nii\.gz has .* run the ingest stage again"):
        build(raw)


def test_other_structures_than_those_ingested_are_refused(raw):
    with pytest.raises(DataError, match=r"knows the structures .*, but ingest\.classes names background, whole;"):
        build(raw, classes=("background", "whole"))


def test_phantoms_with_masks_reach_the_hospitals(tmp_path):
    structures = ("background", "lungs")
    phantoms = Ingest(
        source="phantom",
        folder="primia/data/phantom",
        classes=structures,
        phantom=Phantom(patients=40, pixels=48, seed=3),
    )
    ingest(phantoms, task="segmentation", hospitals=HOSPITALS, target=tmp_path / "raw")
    build(tmp_path / "raw", classes=structures, volume=None, dealing="natural")
    for image_set in all_sets(tmp_path / "raw").values():
        assert image_set.masks and image_set.pixels == 24 and image_set.depth is None
        lungs = image_set.labels == 1
        assert 0.05 < lungs.float().mean() < 0.6
        assert image_set.images[:, 0][lungs].mean() < image_set.images[:, 0][~lungs].mean()


def test_the_real_hippocampus_is_accepted_whole_and_nothing_is_lost(tmp_path):
    folder = REAL_DATA / "msd_task04_hippocampus"
    if not (folder / "imagesTr").is_dir():
        pytest.skip(f"no hippocampus in {REAL_DATA}; name the folder of real data with PRIMIA_REAL_DATA")
    settings = Ingest(source="nifti", folder=str(folder), classes=CLASSES)
    summary = ingest(settings, task="segmentation", hospitals=(), target=tmp_path / "raw")
    assert (summary.images, summary.quarantined, summary.duplicates) == (260, 0, 0)
    counts = build(tmp_path / "raw", pixels=64, volume=Volume(spacing=(1.0, 1.0, 1.0)))["test"]
    assert (counts["patients"], counts["lost_by_class"]) == (52, {"anterior": 0.0, "posterior": 0.0})
    assert all(counts["voxels_by_class"][name] > 50_000 for name in CLASSES)
    test = all_sets(tmp_path / "raw")["test"]
    for i, name in enumerate(test.patient_ids):
        image = nibabel.load(folder / "imagesTr" / f"{name}.nii.gz")
        mask = np.asarray(nibabel.load(folder / "labelsTr" / f"{name}.nii.gz").dataobj)
        stacked = test.labels[test.patients == i].movedim(0, -1)
        assert np.array_equal(restore(stacked, place(image, Volume(spacing=(1.0, 1.0, 1.0)), pixels=64)), mask)
