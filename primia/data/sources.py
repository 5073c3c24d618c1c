"""What every source of images offers: a stream of files with label or mask, patient, hospital and split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from primia.data.decoding import RefusedFileError


@dataclass(frozen=True)
class SourceImage:
    """One image as its source names it; nothing is checked yet.

    `file` is a relative path with forward slashes, unique within the source, and so is `mask`, among masks. An image
    has a label or a mask. `label`, `mask`, `hospital` and `split` are empty where the source does not say. `read` gives
    the bytes of the image's file and `read_mask` those of the mask's, or they raise `RefusedFileError`.
    """

    file: str
    label: str
    patient: str
    read: Callable[[], bytes]
    hospital: str = ""
    split: str = ""
    mask: str = ""
    read_mask: Callable[[], bytes] | None = None


class Source(Protocol):
    """A place images come from."""

    @property
    def synthetic(self) -> bool:
        """True if no image shows a person."""

    def describe(self) -> str:
        """A few words for reports and errors: what kind of source, and where."""

    def images(self) -> Iterator[SourceImage]:
        """Every image once, in the same order each time."""


def read_file(path: Path, *, most_bytes: int | None = None) -> bytes:
    """The bytes of a file of a source.

    Raises:
        RefusedFileError: it is missing, no regular file, unreadable, or longer than `most_bytes`.
    """
    if not path.exists():
        raise RefusedFileError("does not exist")
    if not path.is_file():  # a pipe or device would be waited on for ever
        raise RefusedFileError("is no regular file")
    try:
        if most_bytes is not None and path.stat().st_size > most_bytes:
            raise RefusedFileError(f"has more than {most_bytes >> 20} MiB")
        return path.read_bytes()
    except OSError as error:
        raise RefusedFileError(f"cannot be read ({error.strerror})") from error


def refuse(reason: str) -> bytes:
    """What stands in for reading a file that a source knows to be bad."""
    raise RefusedFileError(reason)
