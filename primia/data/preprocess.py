"""The one and only way from an image file to what a network sees."""

import logging
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
from primia.data.dicom import is_dicom, read_dicom
from primia.errors import DataError


def load_image(path: Path, *, pixels: int) -> Tensor:
    """Read one PNG, JPEG or DICOM file as (1, pixels, pixels) float16 in [0, 1]; row 0 is the top of the picture.

    See `read_grey` and `to_square`, which it consists of.

    Raises:
        DataError: the file is missing, damaged, or no grey image.
    """
    return to_square(read_grey(path), pixels=pixels)


def read_grey(path: Path) -> Any:
    """The picture in a file as float32 in [0, 1], (height, width); what kind of file it is, its content says.

    Grey values of PNG and JPEG are divided by 255 or 65535 according to the file's bit depth; those of DICOM see
    `primia.data.dicom.read_dicom`.

    Raises:
        DataError: the file is missing, damaged, or no grey image.
    """
    try:
        if is_dicom(path):
            return read_dicom(path)
        with refusals():
            return _loader()(path)
    except RefusedFileError as refusal:
        if path.is_dir():
            raise DataError(f"The image {path} is a folder; name a file in it.") from refusal
        if not path.is_file():
            raise DataError(f"The image {path} does not exist; correct the path.") from refusal
        raise DataError(f"The image {path} {refusal}; {refusal.way_out}.") from refusal


def to_square(grey: Any, *, pixels: int) -> Tensor:
    """Grey values (height, width) in [0, 1] as (1, pixels, pixels) float16.

    Each new pixel is the mean of the area it covers, which is what keeps fine structure from aliasing. Pictures that
    are not square are squeezed.
    """
    tensor: Tensor = _resizer(pixels)(grey).as_tensor().clamp(0.0, 1.0).to(torch.float16)
    return tensor


def shrink_grey(image: NDArray[np.uint8], *, pixels: int) -> Tensor:
    """Take an 8-bit grey image (height, width) the same way, without a file."""
    return to_square(image.astype(np.float32) / np.float32(255), pixels=pixels)


@cache
def _loader() -> Callable[[Path], Any]:
    """Built once: every construction searches for the packages of MONAI's other readers."""
    # Importing MONAI takes seconds.
    from monai.data import PILReader
    from monai.transforms import LoadImage

    # LoadImage builds MONAI's own DICOM reader, too, which complains that it misses a decoder for compressed pixels.
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
    # Without reverse_indexing=False MONAI swaps height and width: its first axis is the picture's x.
    reader = PILReader(converter=_unit_range, reverse_indexing=False, formats=FORMATS)
    load = LoadImage(reader=reader, image_only=True, dtype=np.float32, expanduser=False)
    # A reader given at the call lets its errors through; those of LoadImage itself only reach a log.
    return partial(load, reader=reader)


@cache
def _resizer(pixels: int) -> Callable[[Any], Any]:
    from monai.transforms import Compose, EnsureChannelFirst, Resize

    resize: Callable[[Any], Any] = Compose(
        [
            EnsureChannelFirst(channel_dim="no_channel"),
            # Not anti_aliasing=True: its Gaussian takes everything outside the picture for black and darkens the rim.
            Resize((pixels, pixels), mode="area"),
        ]
    )
    return resize


def _unit_range(image: Image.Image) -> Image.Image:
    with image:  # PILReader would leave the file open when it is refused
        grey = to_grey(image)
    largest = 2 ** bits_of(grey) - 1
    return Image.fromarray(np.asarray(grey, dtype=np.float32) / np.float32(largest))
