from pathlib import Path

import pytest
from image_files import write_image

from primia.config import Columns, Ingest
from primia.data.ingest import IngestSummary, ingest
from primia.data.manifest import ManifestRow, read_manifest
from primia.errors import DataError

Row = tuple[str, str, str, str, str]  # path, diagnosis, child, site, part


def labelled(tmp_path: Path, rows: list[Row], *, header="path,diagnosis,child,site,part", write=True) -> None:
    folder = tmp_path / "mine"
    folder.mkdir(exist_ok=True)
    for i, (path, *_) in enumerate(rows):
        if write and not path.startswith(("..", "/")):
            write_image(folder / path, i)
    # A spreadsheet's byte order mark and line ends.
    text = "\r\n".join([header, *(",".join(row) for row in rows)]) + "\r\n"
    (folder / "labels.csv").write_bytes(text.encode("utf-8-sig"))


def run(tmp_path: Path, *, columns: dict | None = None, **changes) -> IngestSummary:
    named = {"label": "diagnosis", "patient": "child", "hospital": "site", "split": "part"}
    settings = Ingest(
        source="image_folder",
        folder=str(tmp_path / "mine"),
        classes=("normal", "viral"),
        labels_file="labels.csv",
        columns=Columns(**(named if columns is None else columns)),
        **changes,
    )
    return ingest(
        settings, hospitals=(), target=tmp_path / "raw", quarantine_path=tmp_path / "state" / "quarantine.csv"
    )


def manifest(tmp_path: Path) -> dict[str, ManifestRow]:
    return {row.image: row for row in read_manifest(tmp_path / "raw" / "manifest.csv")}


GOOD: list[Row] = [
    ("a.png", "normal", "p1", "north", "train"),
    ("b.png", "Viral", "p2", "north", "VAL"),
    ("sub/c.png", "viral", "p3", "river", "Test"),
    ("d.png", "normal", "p4", "river", "test"),
]


def test_the_labels_file_gives_label_patient_hospital_and_split(tmp_path):
    labelled(tmp_path, GOOD)
    run(tmp_path)
    found = {name: (r.label, r.patient, r.hospital, r.split) for name, r in manifest(tmp_path).items()}
    assert found == {
        "a.png": ("normal", "p1", "north", "train"),
        "b.png": ("viral", "p2", "north", "validation"),
        "sub/c.png": ("viral", "p3", "river", "test"),
        "d.png": ("normal", "p4", "river", "test"),
    }


def test_hospital_and_split_are_empty_where_no_column_is_named(tmp_path):
    labelled(tmp_path, GOOD)
    run(tmp_path, columns={"label": "diagnosis", "patient": "child"})
    assert {(row.hospital, row.split) for row in manifest(tmp_path).values()} == {("", "")}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("gone.png", "normal", "p9", "north", "train"), "does not exist"),
        (("../secret.png", "normal", "p9", "north", "train"), "lies outside the data folder"),
        (("sub/../../secret.png", "normal", "p9", "north", "train"), "lies outside the data folder"),
        (("ABSOLUTE", "normal", "p9", "north", "train"), "lies outside the data folder"),
        (("sub", "normal", "p9", "north", "train"), "is no regular file"),
        (("", "normal", "p9", "north", "train"), "has no path in labels.csv"),
        (("./a.png", "viral", "p9", "north", "train"), "is listed twice in labels.csv"),
        (("d.png", "normal", "p4", "river", "test"), "is listed twice in labels.csv"),
        (("e.png", "measles", "p9", "north", "train"), "has the label 'measles'; ingest.classes allows normal, viral"),
        (("e.png", "normal", "", "north", "train"), "names no patient"),
        (("e.png", "normal", "p9", "north", "dev"), "has the split 'dev'; allowed are train, val, validation, test"),
        (("e.png", "normal", "p9", "north", ""), "has the split ''"),
    ],
)
def test_a_bad_row_of_the_labels_file_is_refused_with_its_reason(tmp_path, row, reason):
    write_image(tmp_path / "secret.png", 50)
    write_image(tmp_path / "mine" / "e.png", 51)
    labelled(tmp_path, GOOD)
    row = (str(tmp_path / "secret.png"), *row[1:]) if row[0] == "ABSOLUTE" else row
    labelled(tmp_path, [*GOOD, row], write=False)
    with pytest.raises(DataError) as refused:
        run(tmp_path)
    assert "1 of 5 files" in str(refused.value) and reason in str(refused.value)
    assert not (tmp_path / "raw").exists()
    assert run(tmp_path, max_refused=1).quarantined == 1
    assert len(manifest(tmp_path)) == 4


def test_a_missing_column_is_named_with_the_columns_there_are(tmp_path):
    labelled(tmp_path, GOOD, header="path,label,child,site,part")
    with pytest.raises(
        DataError,
        match=r"no column 'diagnosis' \(it has: path, label, child, site, part\); correct ingest\.columns\.label",
    ):
        run(tmp_path)


@pytest.mark.parametrize("content", [b"", b"path,diagnosis,child,site,part\n"])
def test_a_labels_file_without_rows_is_refused(tmp_path, content):
    labelled(tmp_path, GOOD)
    (tmp_path / "mine" / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"holds no image|has no column 'path'"):
        run(tmp_path)


@pytest.mark.parametrize("content", [None, b"path,diagnosis,child,site,part\n\xff\xfe,,,,\n", b'path,"diagnosis\n'])
def test_a_labels_file_that_cannot_be_read_is_named(tmp_path, content):
    labelled(tmp_path, GOOD)
    (tmp_path / "mine" / "labels.csv").unlink()
    if content is not None:
        (tmp_path / "mine" / "labels.csv").write_bytes(content)
    with pytest.raises(DataError, match=r"labels\.csv cannot be read as UTF-8 CSV"):
        run(tmp_path)


def test_a_patient_at_two_hospitals_is_refused(tmp_path):
    labelled(tmp_path, [*GOOD, ("e.png", "normal", "p1", "river", "train")])
    with pytest.raises(DataError, match=r"Patient p1 is listed at two hospitals, north and river \(file e\.png\)"):
        run(tmp_path)


def test_a_patient_in_training_and_test_is_refused_with_the_way_out(tmp_path):
    labelled(tmp_path, [*GOOD, ("e.png", "normal", "p4", "river", "val")])
    with pytest.raises(
        DataError, match=r"Patient p4 has images in both training and test .*ingest\.overlap to drop_from_training"
    ):
        run(tmp_path)
    assert not (tmp_path / "raw").exists()


def test_the_training_images_of_a_test_patient_are_dropped_and_counted_on_request(tmp_path):
    extra: list[Row] = [
        ("e.png", "normal", "p4", "river", "val"),
        ("f.png", "viral", "p4", "river", "train"),
        ("g.png", "viral", "p1", "north", "train"),
    ]
    labelled(tmp_path, [*GOOD, *extra])
    summary = run(tmp_path, overlap="drop_from_training")
    assert (summary.images, summary.dropped_for_overlap, summary.patients) == (5, 2, 4)
    assert sorted(manifest(tmp_path)) == ["a.png", "b.png", "d.png", "g.png", "sub/c.png"]
    assert sorted(p.name for p in (tmp_path / "raw" / "images").rglob("*.png")) == [
        "a.png",
        "b.png",
        "c.png",
        "d.png",
        "g.png",
    ]


def test_a_patient_may_have_images_of_two_classes(tmp_path):
    labelled(tmp_path, [*GOOD, ("e.png", "viral", "p1", "north", "train")])
    assert run(tmp_path).patients == 4
