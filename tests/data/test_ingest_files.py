import csv
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from image_files import SIZE, class_folders, encoded, rgb, texture, write_image
from PIL import Image

from primia.config import Ingest, Phantom
from primia.data.ingest import IngestSummary, ingest
from primia.data.manifest import read_manifest
from primia.errors import DataError
from primia.files import sha256_of_file, sha256_of_folder


def settings(folder: Path, **changes) -> Ingest:
    return Ingest(source="image_folder", folder=str(folder), classes=("normal", "viral"), **changes)


def run(tmp_path: Path, **changes) -> IngestSummary:
    return ingest(
        settings(tmp_path / "mine", **changes),
        hospitals=(),
        target=tmp_path / "raw",
        quarantine_path=tmp_path / "state" / "quarantine.csv",
    )


def quarantine(path: Path) -> dict[str, str]:
    with path.open(newline="") as stream:
        return {row["file"]: row["reason"] for row in csv.DictReader(stream)}


def truncated_jpeg() -> bytes:
    whole = encoded(texture(7), kind="JPEG")
    return whole[: len(whole) * 2 // 3]


def grey_with_one_red_pixel() -> np.ndarray:
    pixels = rgb(texture(7))
    pixels[3, 4] = (200, 10, 10)
    return pixels


def transparent() -> np.ndarray:
    return np.dstack([rgb(texture(7)), np.full((SIZE, SIZE), 90, np.uint8)])


BAD_FILES = {
    "text.png": (b"patient has a cough", "is no PNG or JPEG image"),
    "gif.png": (encoded(texture(7), kind="GIF"), "is no PNG or JPEG image"),
    "empty.png": (b"", "has 0 bytes"),
    "cut.jpeg": (truncated_jpeg(), "is truncated or damaged"),
    "cut.png": (encoded(texture(7))[:300], "is truncated or damaged"),
    "red.png": (encoded(grey_with_one_red_pixel()), "is a colour image"),
    "glass.png": (encoded(transparent()), "is partly transparent"),
    "large.png": (encoded(texture(7, width=SIZE + 1)), f"is {SIZE + 1} x {SIZE} pixels of 8 bits where most files"),
    "deep.png": (encoded(texture(7, bits=16)), f"is {SIZE} x {SIZE} pixels of 16 bits where most files"),
    "notes.txt": (b"read me", "is no PNG or JPEG image"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_stops_ingest_with_its_reason_and_the_earlier_data_stay(tmp_path, name):
    class_folders(tmp_path / "mine")
    run(tmp_path)
    before = sha256_of_folder(tmp_path / "raw")
    content, reason = BAD_FILES[name]
    (tmp_path / "mine" / "normal" / name).write_bytes(content)
    with pytest.raises(DataError) as refused:
        run(tmp_path)
    assert f"1 of 17 files of image_folder {tmp_path / 'mine'} are refused" in str(refused.value)
    assert f"the first, normal/{name}, {reason}" in str(refused.value)
    assert "raise ingest.max_refused" in str(refused.value)
    assert quarantine(tmp_path / "state" / "quarantine.csv")[f"normal/{name}"].startswith(reason)
    assert sha256_of_folder(tmp_path / "raw") == before
    assert sorted(os.listdir(tmp_path)) == ["mine", "raw", "state"]


def test_all_bad_files_are_quarantined_when_that_many_may_be_refused(tmp_path):
    class_folders(tmp_path / "mine")
    for name, (content, _) in BAD_FILES.items():
        (tmp_path / "mine" / "viral" / name).write_bytes(content)
    write_image(tmp_path / "mine" / "tuberculosis" / "t.png", 1)
    write_image(tmp_path / "mine" / "stray.png", 1)
    summary = run(tmp_path, max_refused=12)
    listed = quarantine(tmp_path / "raw" / "quarantine.csv")
    assert summary.quarantined == 12 == len(listed)
    assert {
        name: listed[f"viral/{name}"].startswith(reason) for name, (_, reason) in BAD_FILES.items()
    } == dict.fromkeys(BAD_FILES, True)
    assert listed["tuberculosis/t.png"] == "has the label 'tuberculosis'; ingest.classes allows normal, viral"
    assert listed["stray.png"].startswith("lies in no class folder")
    assert summary.images == 16
    copied = {p.relative_to(tmp_path / "raw").as_posix() for p in (tmp_path / "raw/images").rglob("*") if p.is_file()}
    assert copied == {row.path for row in read_manifest(tmp_path / "raw" / "manifest.csv")}


def test_the_manifest_describes_each_copied_file(tmp_path):
    class_folders(tmp_path / "mine", patients=2)
    write_image(tmp_path / "mine" / "viral" / "alone.PNG", 9)
    (tmp_path / "mine" / "README.txt").write_text("a README beside the class folders is no image")
    (tmp_path / "mine" / "viral" / ".DS_Store").write_bytes(b"\0")
    summary = run(tmp_path)
    rows = {row.image: row for row in read_manifest(tmp_path / "raw" / "manifest.csv")}
    assert list(rows) == sorted(rows) and len(rows) == summary.images == 9
    alone = rows["viral/alone.PNG"]
    assert (alone.patient, alone.label, alone.hospital, alone.split) == ("alone", "viral", "", "")
    assert (alone.height, alone.width, alone.bits) == (SIZE, SIZE, 8)
    assert rows["normal/n1/view0.png"].patient == "n1"
    for row in rows.values():
        copy = tmp_path / "raw" / row.path
        assert copy.read_bytes() == (tmp_path / "mine" / row.image).read_bytes()
        assert (sha256_of_file(copy), copy.stat().st_size) == (row.sha256, row.bytes)
    assert summary.patients == 5


def test_the_copies_are_files_of_their_own(tmp_path):
    class_folders(tmp_path / "mine", patients=1)
    before = sha256_of_folder(tmp_path / "mine")
    run(tmp_path)
    for copy in (tmp_path / "raw" / "images").rglob("*.*"):
        copy.write_bytes(b"overwritten")
    assert sha256_of_folder(tmp_path / "mine") == before


def test_the_same_input_gives_the_same_bytes(tmp_path):
    class_folders(tmp_path / "mine")
    first = run(tmp_path)
    before = sha256_of_folder(tmp_path / "raw")
    assert run(tmp_path) == first
    assert sha256_of_folder(tmp_path / "raw") == before


def test_source_json_counts_what_was_accepted(tmp_path):
    class_folders(tmp_path / "mine")
    copy = (tmp_path / "mine" / "normal" / "n0" / "view0.png").read_bytes()
    (tmp_path / "mine" / "normal" / "again.png").write_bytes(copy)
    with Image.open(tmp_path / "mine" / "normal" / "n1" / "view1.jpeg") as image:
        image.save(tmp_path / "mine" / "normal" / "reencoded.png")
    summary = run(tmp_path)
    source = json.loads((tmp_path / "raw" / "source.json").read_text())
    assert source == {
        "source": f"image_folder {tmp_path / 'mine'}",
        "classes": ["normal", "viral"],
        "synthetic": False,
        "images": 18,
        "patients": 10,
        "dropped_for_overlap": 0,
        "quarantined": 0,
        "duplicates": 2,
        "fingerprint": summary.fingerprint,
    }


def test_the_fingerprint_follows_the_images_and_not_their_names(tmp_path):
    class_folders(tmp_path / "mine")
    first = run(tmp_path).fingerprint
    (tmp_path / "mine/normal/n0").rename(tmp_path / "mine/normal/other")
    assert run(tmp_path).fingerprint == first
    write_image(tmp_path / "mine" / "normal" / "new.png", 99)
    assert run(tmp_path).fingerprint != first


def test_grey_pictures_in_colour_files_are_accepted(tmp_path):
    class_folders(tmp_path / "mine")
    noisy = rgb(texture(5).clip(0, 240))
    noisy[..., 2] += 8
    for name, pixels, kind in (
        ("a.png", rgb(texture(5)), "PNG"),
        ("b.jpg", rgb(texture(5)), "JPEG"),
        ("c.png", noisy, "PNG"),
    ):
        (tmp_path / "mine" / "normal" / name).write_bytes(encoded(pixels, kind=kind))
    assert run(tmp_path).images == 19


def test_class_folders_may_be_written_in_capitals(tmp_path):
    class_folders(tmp_path / "mine", classes=("NORMAL", "Viral"))
    run(tmp_path)
    assert {row.label for row in read_manifest(tmp_path / "raw" / "manifest.csv")} == {"normal", "viral"}


def test_mixed_sizes_and_bit_depths_are_accepted_when_declared(tmp_path):
    class_folders(tmp_path / "mine")
    write_image(tmp_path / "mine" / "normal" / "large.png", 1, height=40, width=30)
    write_image(tmp_path / "mine" / "normal" / "deep.png", 1, bits=16)
    run(tmp_path, mixed_sizes=True)
    rows = {row.image: row for row in read_manifest(tmp_path / "raw" / "manifest.csv")}
    assert (rows["normal/large.png"].height, rows["normal/large.png"].width) == (40, 30)
    assert rows["normal/deep.png"].bits == 16


def test_a_class_without_images_is_named(tmp_path):
    class_folders(tmp_path / "mine", classes=("normal",))
    with pytest.raises(DataError, match="No accepted image has the class viral; add images of it or remove it"):
        run(tmp_path)


def test_a_missing_folder_an_empty_folder_and_a_file_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist or is no folder; correct ingest\.folder"):
        run(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="holds no image; put PNG or JPEG files"):
        run(tmp_path)
    (tmp_path / "mine").rmdir()
    (tmp_path / "mine").write_text("")
    with pytest.raises(DataError, match="does not exist or is no folder"):
        run(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_an_unreadable_folder_is_refused(tmp_path):
    class_folders(tmp_path / "mine")
    (tmp_path / "mine" / "viral" / "v0").chmod(0)
    try:
        with pytest.raises(DataError, match=r"viral/v0 cannot be read \(Permission denied\); give .* permission"):
            run(tmp_path)
    finally:
        (tmp_path / "mine" / "viral" / "v0").chmod(0o755)


@pytest.mark.parametrize(("folder", "target"), [("mine", "mine"), ("mine", "mine/raw"), ("raw/mine", "raw")])
def test_ingest_never_replaces_the_folder_the_images_are_in(tmp_path, folder, target):
    class_folders(tmp_path / folder)
    before = sha256_of_folder(tmp_path / folder)
    with pytest.raises(DataError, match="lie within each other; move your images"):
        ingest(settings(tmp_path / folder), hospitals=(), target=tmp_path / target)
    assert sha256_of_folder(tmp_path / folder) == before


def test_a_pipe_named_like_an_image_does_not_stop_the_clock(tmp_path):
    class_folders(tmp_path / "mine")
    os.mkfifo(tmp_path / "mine" / "normal" / "pipe.png")
    with pytest.raises(DataError, match=r"normal/pipe\.png, is no regular file"):
        run(tmp_path)


def test_a_link_back_to_the_folder_is_named_instead_of_followed_for_ever(tmp_path):
    class_folders(tmp_path / "mine")
    (tmp_path / "mine" / "normal" / "loop").symlink_to(tmp_path / "mine", target_is_directory=True)
    with pytest.raises(DataError, match="normal/loop is a link to a folder that is read already"):
        run(tmp_path)


def test_a_file_name_that_is_not_utf8_is_quarantined(tmp_path):
    class_folders(tmp_path / "mine")
    with open(os.fsencode(tmp_path / "mine" / "normal") + b"/\xff.png", "wb") as stream:
        stream.write(encoded(texture(1)))
    run(tmp_path, max_refused=1)
    assert quarantine(tmp_path / "raw" / "quarantine.csv") == {
        "normal/\\udcff.png": "has a name that is not UTF-8",
    }


def test_a_full_disk_is_one_sentence_and_the_earlier_data_stay(tmp_path, monkeypatch):
    class_folders(tmp_path / "mine")
    run(tmp_path)
    before = sha256_of_folder(tmp_path / "raw")
    write_image(tmp_path / "mine" / "normal" / "new.png", 99)

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"The disk is full while writing .*; free some space"):
        run(tmp_path)
    assert sha256_of_folder(tmp_path / "raw") == before
    assert sorted(os.listdir(tmp_path)) == ["mine", "raw"]


def test_progress_counts_every_file(tmp_path):
    class_folders(tmp_path / "mine", patients=2)
    counted: list[int] = []
    ingest(settings(tmp_path / "mine"), hospitals=(), target=tmp_path / "raw", on_progress=counted.append)
    assert counted == list(range(1, 9))


def test_phantoms_are_ingested_as_synthetic_png_files_of_each_hospital(tmp_path):
    phantoms = Ingest(
        source="phantom",
        folder="primia/data/phantom",
        classes=("normal", "bacterial", "viral"),
        phantom=Phantom(patients=30, pixels=32, seed=3),
    )
    summary = ingest(phantoms, hospitals=("north", "river"), target=tmp_path / "raw")
    assert summary.synthetic and summary.patients == 30 and summary.quarantined == 0
    rows = read_manifest(tmp_path / "raw" / "manifest.csv")
    assert {row.hospital for row in rows} == {"north", "river"}
    assert {row.label for row in rows} == {"normal", "bacterial", "viral"}
    with Image.open(tmp_path / "raw" / rows[0].path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (32, 32))
