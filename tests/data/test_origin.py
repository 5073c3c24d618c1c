import json

import pytest
from image_files import class_folders, write_image

from primia.config import Ingest, Phantom, Preprocess
from primia.data.ingest import ingest
from primia.data.manifest import read_manifest
from primia.data.origin import Origin, origin_of, read_origin, write_origin
from primia.data.sites import build_site_sets
from primia.errors import DataError

HOSPITALS = ("north", "river", "hill")


def taken_in(folder, raw, **changes):
    settings = Ingest(
        **{"source": "image_folder", "folder": str(folder), "classes": ("normal", "viral"), **changes},
    )
    ingest(settings, hospitals=HOSPITALS, target=raw)
    return origin_of(raw, read_manifest(raw / "manifest.csv"))


def test_the_same_images_have_the_same_origin_however_they_are_dealt(tmp_path):
    origin = taken_in(class_folders(tmp_path / "mine", patients=15), tmp_path / "raw")
    assert not origin.synthetic
    rows = read_manifest(tmp_path / "raw" / "manifest.csv")
    assert len(origin.marks) == len({row.sha256 for row in rows}) + 30  # images and patients
    for seed, pixels in ((1, 16), (2, 24)):
        build_site_sets(
            Preprocess(pixels=pixels, hospitals=HOSPITALS, dealing="iid", seed=seed),
            classes=("normal", "viral"),
            raw=tmp_path / "raw",
            sites=tmp_path / "sites",
            test=tmp_path / "test",
        )
        assert [read_origin(tmp_path / "sites" / name) for name in HOSPITALS] == [origin] * 3


def test_one_more_file_or_another_size_leaves_marks_by_which_the_source_is_known_again(tmp_path):
    first = taken_in(class_folders(tmp_path / "mine"), tmp_path / "raw")
    write_image(tmp_path / "mine" / "normal" / "new" / "view.png", 999)
    more = taken_in(tmp_path / "mine", tmp_path / "raw")
    assert more.fingerprint != first.fingerprint
    assert first.marks < more.marks and len(more.marks - first.marks) == 2
    for number, path in enumerate(sorted((tmp_path / "mine").rglob("*.*"))):
        write_image(path, 5000 + number, height=30, width=30)
    resized = taken_in(tmp_path / "mine", tmp_path / "raw")
    assert len(first.marks & resized.marks) == 8  # no image, but all patients


def test_phantoms_are_synthetic_and_leave_no_mark(tmp_path):
    phantom = Phantom(patients=30, pixels=32, seed=1)
    origin = taken_in("", tmp_path / "raw", source="phantom", phantom=phantom, classes=("normal", "bacterial", "viral"))
    assert origin.synthetic and origin.marks == frozenset()
    assert origin.fingerprint == json.loads((tmp_path / "raw" / "source.json").read_text())["fingerprint"]


def test_equal_origins_give_equal_bytes(tmp_path):
    marks = frozenset(f"{number:016x}" for number in range(20))
    for folder in ("a", "b"):
        write_origin(tmp_path / folder, Origin(fingerprint="1" * 64, synthetic=False, marks=marks))
    assert (tmp_path / "a" / "origin.json").read_bytes() == (tmp_path / "b" / "origin.json").read_bytes()


def test_a_missing_or_damaged_origin_is_named_with_the_stage_that_writes_it(tmp_path):
    with pytest.raises(DataError, match=r"origin.json is missing, .*dvc repro preprocess"):
        read_origin(tmp_path)
    (tmp_path / "origin.json").write_text('{"fingerprint": "1"}')
    with pytest.raises(DataError, match=r"origin.json is damaged"):
        read_origin(tmp_path)
    (tmp_path / "source.json").write_text('{"synthetic": "perhaps"}')
    with pytest.raises(DataError, match=r"source.json does not say what the source is; run the ingest stage"):
        origin_of(tmp_path, ())
