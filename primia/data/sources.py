"""What every source of images offers: a stream of files with label, patient, hospital and split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SourceImage:
    """One image as its source names it; nothing is checked yet.

    `file` is a relative path with forward slashes, unique within the source. `hospital` and `split` are empty
    where the source does not say. `read` gives the bytes of the PNG or JPEG file, or raises `RefusedFileError`.
    """

    file: str
    label: str
    patient: str
    read: Callable[[], bytes]
    hospital: str = ""
    split: str = ""


class Source(Protocol):
    """A place images come from."""

    @property
    def synthetic(self) -> bool:
        """True if no image shows a person."""

    def describe(self) -> str:
        """A few words for reports and errors: what kind of source, and where."""

    def images(self) -> Iterator[SourceImage]:
        """Every image once, in the same order each time."""
