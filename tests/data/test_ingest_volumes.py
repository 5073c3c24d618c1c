"""Volumes with masks are accepted in pairs, or quarantined with one reason."""

import csv
import json
import os
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nifti_files import SHAPE, affine, decathlon, intensities, save, structures, write_pair

from primia.config import Columns, Ingest, Phantom
from primia.data.ingest import IngestSummary, ingest
from primia.data.manifest import ManifestRow, read_manifest
from primia.errors import DataError
from primia.files import sha256_of_file, sha256_of_folder

CLASSES = ("background", "anterior", "posterior")


def run(tmp_path: Path, **changes) -> IngestSummary:
    settings = {"source": "nifti", "folder": str(tmp_path / "mine"), "classes": CLASSES, **changes}
    return ingest(
        Ingest(**settings),
        task="segmentation",
        hospitals=(),
        target=tmp_path / "raw",
        quarantine_path=tmp_path / "state" / "quarantine.csv",
    )


def manifest(tmp_path: Path) -> dict[str, ManifestRow]:
    return {row.image: row for row in read_manifest(tmp_path / "raw" / "manifest.csv")}


def quarantine(path: Path) -> dict[str, str]:
    with path.open(newline="") as stream:
        return {row["file"]: row["reason"] for row in csv.DictReader(stream)}


def spoil(folder: Path, image: np.ndarray | None = None, mask: np.ndarray | None = None, *, where=None) -> None:
    """A pair `bad` that differs from a good one in one respect."""
    save(folder / "imagesTr" / "bad.nii", intensities(structures(), seed=1) if image is None else image)
    save(folder / "labelsTr" / "bad.nii", structures() if mask is None else mask, where)


def header(folder: Path, name: str, offset: int, kind: str, *values: float) -> None:
    spoil(folder)
    content = bytearray((folder / name / "bad.nii").read_bytes())
    struct.pack_into(f"<{kind}", content, offset, *values)
    (folder / name / "bad.nii").write_bytes(content)


def write(folder: Path, name: str, content: bytes | None) -> None:
    spoil(folder)
    if content is None:
        (folder / name / "bad.nii").unlink()
    else:
        (folder / name / "bad.nii").write_bytes(content)


def cut(folder: Path, name: str) -> None:
    spoil(folder)
    path = folder / name / "bad.nii"
    path.write_bytes(path.read_bytes()[:-100])


def two_masks(folder: Path) -> None:
    spoil(folder)
    save(folder / "labelsTr" / "bad.nii.gz", structures())


OTHER = np.where(structures() == 2, 5, structures()).astype(np.uint8)
BAD = {
    "missing mask": (lambda f: write(f, "labelsTr", None), "has no mask in labelsTr"),
    "two masks": (two_masks, "has two masks in labelsTr, bad.nii and bad.nii.gz"),
    "other shape": (
        lambda f: spoil(f, mask=structures((18, 22, 15))),
        "has 18 x 22 x 14 voxels, but its mask 18 x 22 x 15",
    ),
    "elsewhere": (lambda f: spoil(f, where=affine(origin=(0, 0, 0))), "has a mask that lies elsewhere"),
    "four dimensions": (lambda f: spoil(f, np.zeros((*SHAPE, 2), np.float32)), "has 4 dimensions"),
    "nan": (lambda f: spoil(f, np.full(SHAPE, np.nan, np.float32)), "NaN or infinity"),
    "no scanner's": (
        lambda f: spoil(f, np.full(SHAPE, 3.3e38, np.float32)),
        "the value 3.3e+38, which no scanner gives",
    ),
    "infinity": (lambda f: spoil(f, np.full(SHAPE, np.inf, np.float32)), "NaN or infinity"),
    "truncated": (lambda f: cut(f, "imagesTr"), "is truncated or damaged"),
    "no nifti": (lambda f: write(f, "imagesTr", b"cough" * 200), "is no NIfTI volume"),
    "0 bytes": (lambda f: write(f, "imagesTr", b""), "has 0 bytes"),
    "no spacing": (lambda f: header(f, "imagesTr", 80, "f", 0.0), "has voxels without a size"),
    "singular": (lambda f: header(f, "imagesTr", 280, "4f", 0, 0, 0, 0), "its affine matrix is singular"),
    "absurd": (lambda f: header(f, "imagesTr", 42, "3h", 9999, 9999, 9999), "too many for a volume of a patient"),
    "blank": (lambda f: spoil(f, np.full(SHAPE, 5.0, np.float32)), "has the same value in all voxels"),
    "empty mask": (lambda f: spoil(f, mask=np.zeros(SHAPE, np.uint8)), "has an empty mask"),
    "unknown value": (lambda f: spoil(f, mask=OTHER), "has a mask with the value 5, which is no class"),
    "broken value": (
        lambda f: spoil(f, mask=(structures() * 0.5).astype(np.float32)),
        "has a mask with the value 0.5, which is no whole number",
    ),
    "mask of NaN": (
        lambda f: spoil(f, mask=np.full(SHAPE, np.nan, np.float32)),
        "has a mask that holds values that are no finite numbers",
    ),
    "truncated mask": (lambda f: cut(f, "labelsTr"), "has a mask that is truncated or damaged"),
    "mask of 0 bytes": (lambda f: write(f, "labelsTr", b""), "has a mask that has 0 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_pair_stops_ingest_or_is_quarantined_with_one_reason(tmp_path, name):
    decathlon(tmp_path / "mine", patients=2)
    run(tmp_path)
    before = sha256_of_folder(tmp_path / "raw")
    spoiled, reason = BAD[name]
    spoiled(tmp_path / "mine")
    with pytest.raises(DataError) as refused:
        run(tmp_path)
    assert f"1 of 3 files of nifti {tmp_path / 'mine'} are refused" in str(refused.value)
    assert "the first, bad.nii, " in str(refused.value) and reason in str(refused.value)
    assert sha256_of_folder(tmp_path / "raw") == before
    assert sorted(os.listdir(tmp_path)) == ["mine", "raw", "state"]
    assert run(tmp_path, max_refused=1).images == 2
    assert reason in quarantine(tmp_path / "raw" / "quarantine.csv")["bad.nii"]
    copies = {path.relative_to(tmp_path / "raw").as_posix() for path in (tmp_path / "raw").rglob("*.nii*")}
    assert copies == {path for row in manifest(tmp_path).values() for path in (row.path, row.mask)}


def test_a_mask_without_a_volume_is_quarantined(tmp_path):
    decathlon(tmp_path / "mine", patients=2)
    (tmp_path / "mine" / "imagesTr" / "case_001.nii.gz").unlink()
    assert run(tmp_path, max_refused=1).images == 1
    assert quarantine(tmp_path / "raw" / "quarantine.csv") == {
        "labelsTr/case_001.nii.gz": "is a mask without a volume in imagesTr"
    }


def test_the_manifest_describes_image_and_mask_as_they_came(tmp_path):
    decathlon(tmp_path / "mine", patients=3)
    write_pair(tmp_path / "mine", "plain", suffix=".nii", seed=5)
    (tmp_path / "mine" / "imagesTr" / "._case_000.nii.gz").write_bytes(b"what macOS leaves in archives")
    summary = run(tmp_path)
    assert (summary.images, summary.patients, summary.synthetic) == (4, 4, False)
    rows = manifest(tmp_path)
    assert list(rows) == ["case_000.nii.gz", "case_001.nii.gz", "case_002.nii.gz", "plain.nii"]
    plain = rows["plain.nii"]
    assert (plain.patient, plain.label, plain.hospital, plain.split) == ("plain", "", "", "")
    assert (plain.width, plain.height, plain.depth, plain.bits) == (*SHAPE, 32)
    for row in rows.values():
        for place, path, expected in (("imagesTr", row.path, row.sha256), ("labelsTr", row.mask, row.mask_sha256)):
            copy = tmp_path / "raw" / path
            assert copy.read_bytes() == (tmp_path / "mine" / place / row.image).read_bytes()
            assert sha256_of_file(copy) == expected
    source = json.loads((tmp_path / "raw" / "source.json").read_text())
    assert source["label_values"] == {"background": [0], "anterior": [1], "posterior": [2]}


def test_a_patient_under_two_names_is_quarantined(tmp_path):
    decathlon(tmp_path / "mine", patients=3)
    for place in ("imagesTr", "labelsTr"):
        shutil.copy(tmp_path / "mine" / place / "case_001.nii.gz", tmp_path / "mine" / place / "once_more.nii.gz")
    with pytest.raises(
        DataError, match=r"1 of 4 files .* once_more\.nii\.gz, shows the same voxels as case_001\.nii\.gz"
    ):
        run(tmp_path)
    assert run(tmp_path, max_refused=1).patients == 3


def test_a_copy_with_its_axes_stored_otherwise_and_another_place_is_the_same_patient(tmp_path):
    decathlon(tmp_path / "mine", patients=3)
    for place in ("imagesTr", "labelsTr"):
        image = nibabel.load(tmp_path / "mine" / place / "case_001.nii.gz")
        turned = nibabel.as_closest_canonical(image)
        where = turned.affine.copy()
        where[:3, 3] += 7.0
        nibabel.Nifti1Image(np.asarray(turned.dataobj), where).to_filename(tmp_path / "mine" / place / "copy.nii.gz")
    with pytest.raises(DataError, match=r"copy\.nii\.gz, shows the same voxels as case_001\.nii\.gz"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"labels": {"0": "background", "1": "Posterior", "2": "Anterior"}}', "says that 2 is anterior"),
        ('{"labels": {"0": "Anterior"}}', "says that 0 is anterior, but by ingest.classes 1 would be"),
        ('{"labels": {"background": 0, "Posterior": 1, "Anterior": 2}}', "says that 2 is anterior"),  # as nnU-Net's
        ("not even JSON", "has no table of labels"),
        ("[]", "has no table of labels"),
        ('{"labels": ["background"]}', "has no table of labels"),
    ],
)
def test_a_dataset_json_that_means_something_else_is_refused(tmp_path, content, reason):
    decathlon(tmp_path / "mine", patients=2)
    (tmp_path / "mine" / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=reason):
        run(tmp_path)
    told = {"anterior": (1,), "posterior": (2,)}
    assert run(tmp_path, label_values=told).images == 2  # they have the last word


@pytest.mark.parametrize(
    "content",
    ['{"labels": {"0": "bg", "1": "Anterior"}}', '{"labels": {"bg": 0, "Anterior": 1}}', '{"name": "Hippocampus"}'],
)
def test_a_dataset_json_that_agrees_or_has_other_names_is_welcome(tmp_path, content):
    decathlon(tmp_path / "mine", patients=2)
    (tmp_path / "mine" / "dataset.json").write_text(content)
    assert run(tmp_path).images == 2


def test_the_same_volumes_give_the_same_bytes(tmp_path):
    decathlon(tmp_path / "mine", patients=3)
    first = run(tmp_path)
    before = sha256_of_folder(tmp_path / "raw")
    assert run(tmp_path) == first and first.duplicates == 0
    assert sha256_of_folder(tmp_path / "raw") == before


def test_a_patient_with_two_volumes_is_an_error(tmp_path):
    decathlon(tmp_path / "mine", patients=2)
    write_pair(tmp_path / "mine", "case_001", suffix=".nii", seed=5)
    with pytest.raises(
        DataError, match=r"Patient case_001 has two volumes in .*, case_001\.nii and case_001\.nii\.gz;"
    ):
        run(tmp_path, max_refused=10)


def test_values_of_masks_can_be_merged_and_every_structure_must_occur(tmp_path):
    decathlon(tmp_path / "mine", patients=2)
    assert run(tmp_path, classes=("background", "whole"), label_values={"whole": (1, 2)}).images == 2
    with pytest.raises(DataError, match="No accepted image has the class tail"):
        run(tmp_path, classes=(*CLASSES, "tail"))


@pytest.mark.parametrize("missing", ["imagesTr", "labelsTr"])
def test_a_missing_or_empty_folder_is_named(tmp_path, missing):
    decathlon(tmp_path / "mine", patients=1)
    shutil.rmtree(tmp_path / "mine" / missing)
    with pytest.raises(DataError, match=rf"has no folder {missing}; put volumes into imagesTr and masks"):
        run(tmp_path)
    (tmp_path / "mine" / missing).mkdir()
    with pytest.raises(DataError, match=rf"{missing} is empty; put NIfTI files there"):
        run(tmp_path)


def labelled(tmp_path: Path, rows: list[str]) -> dict:
    (tmp_path / "mine" / "labels.csv").write_text("\n".join(["path,patient,site,part", *rows]) + "\n")
    return {"labels_file": "labels.csv", "columns": Columns(hospital="site", split="part")}


def test_a_labels_file_gives_patient_hospital_and_split_and_chooses_the_volumes(tmp_path):
    decathlon(tmp_path / "mine", patients=3)
    rows = ["imagesTr/case_002.nii.gz,p2,river,test", "./imagesTr/case_000.nii.gz,p0,north,train"]
    run(tmp_path, **labelled(tmp_path, rows))
    found = {name: (row.patient, row.hospital, row.split) for name, row in manifest(tmp_path).items()}
    assert found == {"case_000.nii.gz": ("p0", "north", "train"), "case_002.nii.gz": ("p2", "river", "test")}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["imagesTr/other.nii.gz,p,north,train"], "names the volume 'imagesTr/other.nii.gz', which is not in"),
        ([",p,north,train"], "names the volume '', which is not in"),
        (["labels.csv,p,north,train"], "names the volume 'labels.csv', which is not in"),
        (["imagesTr/case_000.nii.gz,p,north,train"] * 2, "lists imagesTr/case_000.nii.gz twice; keep one row"),
        (
            [f"imagesTr/case_00{i}.nii.gz,p,north,train" for i in range(2)],
            "Patient p has two volumes in .*, case_000.nii.gz and case_001.nii.gz",
        ),
        ([], r"has no row; list the volumes in it"),
        (["imagesTr/case_000.nii.gz,,north,train"], "case_000.nii.gz, names no patient"),
        (["imagesTr/case_000.nii.gz,p,north,later"], "case_000.nii.gz, has the split 'later'"),
    ],
)
def test_a_labels_file_that_is_wrong_is_refused(tmp_path, rows, reason):
    decathlon(tmp_path / "mine", patients=2)
    with pytest.raises(DataError, match=reason):
        run(tmp_path, **labelled(tmp_path, rows))


def test_phantoms_come_with_masks_of_their_lungs(tmp_path):
    phantoms = Ingest(
        source="phantom",
        folder="primia/data/phantom",
        classes=("background", "lungs"),
        phantom=Phantom(patients=30, pixels=32, seed=3),
    )
    summary = ingest(phantoms, task="segmentation", hospitals=("north", "river"), target=tmp_path / "raw")
    assert summary.synthetic and summary.patients == 30 and summary.quarantined == 0
    rows = read_manifest(tmp_path / "raw" / "manifest.csv")
    assert {(row.label, row.depth) for row in rows} == {("", 0)} and {row.hospital for row in rows} == {
        "north",
        "river",
    }
    assert all((tmp_path / "raw" / row.mask).is_file() for row in rows)
    source = json.loads((tmp_path / "raw" / "source.json").read_text())
    assert source["label_values"] == {"background": [0], "lungs": [255]}
