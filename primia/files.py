"""Writing files so that a reader never sees half of one, and reading them back."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from primia.errors import DataError


@contextlib.contextmanager
def _said_in_one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"The disk is full while writing {path}; free some space and run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataError(f"{path} cannot be written ({error.strerror}); make its folder writable.") from error
        raise


def write_bytes(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write `content` to `path` under a temporary name, rename it into place, and sync both: it survives a power cut.

    The user's umask applies to `mode`, so that a private account stays private; a key asks for 0o600.
    """
    with _said_in_one_sentence(path):
        make_folder(path.parent)
        temporary = _temporary_name(path)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it, if they are not there.

    Raises:
        DataError: they cannot be made; one is a file, for instance.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be made ({error.strerror}); name another place.") from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, line: str, *, mode: int = 0o666) -> None:
    """Add `line` to a file of lines; on the disk when this returns. Half a line that a power cut left goes first."""
    with _said_in_one_sentence(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, mode), "r+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(end - 1, 0))
            if stream.read() not in (b"", b"\n"):
                stream.seek(0)
                stream.truncate(stream.read().rfind(b"\n") + 1)
                stream.seek(0, os.SEEK_END)
            stream.write(line.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        if is_new:
            sync_folder(path.parent)


def read_lines(path: Path) -> list[str]:
    """The whole lines of a file that `append_line` writes; none if it does not exist."""
    return path.read_bytes().decode(errors="replace").split("\n")[:-1] if path.exists() else []


def _temporary_name(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically: indented, keys sorted, NaN refused."""
    write_text(path, json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a small table atomically, with the same bytes for the same rows on every system."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one ends in a `DataError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing; run the stage that writes it (dvc repro).") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path} is no file; correct the path.") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON ({error.msg}); run the stage that writes it again.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not valid JSON (it is no text); run the stage that writes it again.") from error


def sha256_of_json(content: Any) -> str:
    """SHA-256 of a JSON value, in hexadecimal, whatever the order of its keys and the spaces of its file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextlib.contextmanager
def folder_in_progress(target: Path) -> Iterator[Path]:
    """Give a temporary folder beside `target`; move it into place only if the block succeeds.

    An earlier `target` stays intact until then; after an error the temporary folder is gone.
    """
    with _said_in_one_sentence(target):
        target = target.absolute()  # `.` has no name to build on
        make_folder(target.parent)
        temporary = _temporary_name(target)
        make_folder(temporary)
        try:
            yield temporary
            if target.exists():
                discarded = _temporary_name(target)
                target.rename(discarded)
                temporary.rename(target)
                shutil.rmtree(discarded)
            else:
                temporary.rename(target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_folder(folder: Path) -> str:
    """SHA-256 over the relative names and contents of all files below `folder`, in name order."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()
