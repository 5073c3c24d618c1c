"""The one and only way from an image file to what a network sees."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from primia.data.decoding import FORMATS, RefusedFileError, bits_of, refusals, to_grey
from primia.errors import DataError


def load_image(path: Path, *, pixels: int) -> Tensor:
    """Read one PNG or JPEG file as (1, pixels, pixels) float16 in [0, 1]; row 0 is the top of the picture.

    Grey values are divided by 255 or 65535 according to the file's bit depth; each new pixel is the mean of the
    area it covers, which is what keeps fine structure from aliasing. Pictures that are not square are squeezed.

    Raises:
        DataError: the file is missing, damaged, or no grey image.
    """
    load, resize = _transforms(pixels)
    try:
        with refusals():
            image = load(path)
    except RefusedFileError as refusal:
        if not path.is_file():
            raise DataError(f"The image {path} does not exist; correct the path.") from refusal
        raise DataError(f"The image {path} {refusal}; give a grey PNG or JPEG file.") from refusal
    return _finished(resize(image))


def shrink_grey(image: NDArray[np.uint8], *, pixels: int) -> Tensor:
    """Take an 8-bit grey image (height, width) the same way, without a file."""
    _, resize = _transforms(pixels)
    return _finished(resize(image.astype(np.float32) / np.float32(255)))


def _finished(image: Any) -> Tensor:
    tensor: Tensor = image.as_tensor().clamp(0.0, 1.0).to(torch.float16)
    return tensor


@cache
def _transforms(pixels: int) -> tuple[Callable[[Path], Any], Callable[[Any], Any]]:
    """Built once per size: every construction searches for the packages of MONAI's other readers."""
    # Importing MONAI takes seconds.
    from monai.data import PILReader
    from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize

    # Without reverse_indexing=False MONAI swaps height and width: its first axis is the picture's x.
    reader = PILReader(converter=_unit_range, reverse_indexing=False, formats=FORMATS)
    load = LoadImage(reader=reader, image_only=True, dtype=np.float32, expanduser=False)
    to_square = Compose(
        [
            EnsureChannelFirst(channel_dim="no_channel"),
            # Not anti_aliasing=True: its Gaussian takes everything outside the picture for black and darkens the rim.
            Resize((pixels, pixels), mode="area"),
        ]
    )
    # A reader given at the call lets its errors through; those of LoadImage itself only reach a log.
    return partial(load, reader=reader), to_square


def _unit_range(image: Image.Image) -> Image.Image:
    with image:  # PILReader would leave the file open when it is refused
        grey = to_grey(image)
    largest = 2 ** bits_of(grey) - 1
    return Image.fromarray(np.asarray(grey, dtype=np.float32) / np.float32(largest))
