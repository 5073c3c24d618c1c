"""The client's own look at an image file before it is encrypted: nobody can look at it afterwards."""

from pathlib import Path
from typing import TYPE_CHECKING

from primia.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_SIDE = 32  # pixels
MOST_ASPECT = 3  # longer side by shorter side


def picture(path: Path, *, pixels: int) -> "Tensor":
    """A PNG, JPEG or DICOM file as the pipeline's preprocessing gives it: (1, pixels, pixels) float16 in [0, 1].

    Raises:
        DataError: the file is no usable image, or of a size that no radiograph has.
    """
    from primia.data.preprocess import read_grey, to_square

    grey = read_grey(path)
    height, width = grey.shape
    if min(height, width) < SMALLEST_SIDE or max(height, width) > MOST_ASPECT * min(height, width):
        raise DataError(
            f"The image {path} is of the wrong size ({width} x {height} pixels); give a whole radiograph, of at least "
            f"{SMALLEST_SIDE} pixels a side and no side longer than {MOST_ASPECT} times the other."
        )
    return to_square(grey, pixels=pixels)
