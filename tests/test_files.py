"""A reader never sees half a file, and a full disk is told in one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from primia.errors import DataError
from primia.files import folder_in_progress, read_json, sha256_of_folder, sha256_of_json, write_bytes, write_json

# A limit on file size is the operating system's own way to refuse a write in the middle.
FULL_DISK = """
import errno, os, signal, sys
from pathlib import Path
from primia import files
real = os.fsync
def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")
os.fsync = full
files.write_bytes(Path(sys.argv[1]), b"new")
"""


def test_a_failed_write_leaves_the_earlier_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    answer = subprocess.run([sys.executable, "-c", FULL_DISK, str(target)], capture_output=True, text=True)
    assert answer.returncode != 0
    assert "The disk is full while writing" in answer.stderr.splitlines()[-1]
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_key_file_is_private_from_the_start(tmp_path: Path) -> None:
    write_bytes(tmp_path / "key", b"secret", mode=0o600)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_an_error_leaves_the_earlier_folder_intact(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    with folder_in_progress(target) as folder:
        (folder / "a").write_text("first")
    before = sha256_of_folder(target)
    with pytest.raises(RuntimeError), folder_in_progress(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert sha256_of_folder(target) == before
    assert os.listdir(tmp_path) == ["folder"]


def test_a_finished_folder_replaces_the_earlier_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for name in ("first", "second"):
        with folder_in_progress(target) as folder:
            (folder / name).write_text(name)
    assert os.listdir(target) == ["second"]
    assert os.listdir(tmp_path) == ["folder"]


def test_not_a_number_is_refused_in_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert os.listdir(tmp_path) == []


def test_a_missing_or_broken_result_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is missing; run the stage"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        read_json(tmp_path / "x.json")


def test_the_hash_of_a_folder_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = sha256_of_folder(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = sha256_of_folder(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, sha256_of_folder(tmp_path)}) == 3


def test_the_hash_of_a_json_value_follows_its_content_and_not_how_it_is_written() -> None:
    assert sha256_of_json({"a": 1, "ε": [1.5, None]}) == sha256_of_json({"ε": [1.5, None], "a": 1})
    assert len({sha256_of_json(value) for value in ({"a": 1}, {"a": 1.5}, {"a": "1"}, ["a", 1])}) == 4


def test_a_json_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(DataError, match=r"x\.json is not valid JSON \(it is no text\)"):
        read_json(tmp_path / "x.json")
