"""What the page shows of an image before it is diagnosed; made in memory, never written to a disk."""

import base64
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from primia.errors import PrimiaError
from primia.seal import memory_file

# Longest side of a rendering, in pixels: enough for a screen.
MOST_DRAWN = 1024
# How files begin that a browser draws itself: PNG, JPEG.
_DRAWN_BY_BROWSERS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")


def pictures_of(content: bytes, *, pixels: int) -> tuple[str, str | None]:
    """What the pipeline's preprocessing makes of a file, and the file itself where no browser can draw it.

    Both are data: URLs of 8-bit grey PNG pictures; the first has `pixels` x `pixels`.

    Raises:
        DataError: the file is no usable image.
    """
    # torch and MONAI take seconds.
    from primia.data.preprocess import read_grey
    from primia.diagnosis.client.picture import picture

    with memory_file(content) as name, named_as_the_image(name):
        prepared = picture(Path(name), pixels=pixels)[0].float().numpy()
        original = None if content.startswith(_DRAWN_BY_BROWSERS) else np.asarray(read_grey(Path(name)))
    return _data_url(prepared), None if original is None else _data_url(original)


@contextlib.contextmanager
def named_as_the_image(path: str) -> Iterator[None]:
    """Leave the path of a memory file out of refusals: to the person at the page it is just the image."""
    try:
        yield
    except PrimiaError as error:
        raise type(error)(str(error).replace(f" {path}", "")) from error


def _data_url(grey: NDArray[np.float32]) -> str:
    """Grey values (height, width) in [0, 1] as a picture."""
    image = Image.fromarray(np.rint(np.clip(grey, 0.0, 1.0) * 255).astype(np.uint8))
    image.thumbnail((MOST_DRAWN, MOST_DRAWN))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
