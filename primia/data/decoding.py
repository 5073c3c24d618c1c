"""From the bytes of a PNG or JPEG file to one grey image, or the reason why it is refused."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from itertools import combinations

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG")

# JPEG stores grey pictures of three channels with chroma near zero; decoding leaves differences of a few levels.
_COLOUR_TOLERANCE = 8


class RefusedFileError(Exception):
    """A file that is no usable image; the message completes the sentence "the file …", `way_out` ends it."""

    def __init__(
        self, reason: str, *, way_out: str = "give a grey PNG or JPEG file, or an uncompressed DICOM radiograph"
    ) -> None:
        super().__init__(reason)
        self.way_out = way_out


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn whatever Pillow raises about a bad file into a `RefusedFileError` with one reason."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # oddities in metadata that do not touch the picture
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except RefusedFileError:
            raise
        except UnidentifiedImageError as error:
            raise RefusedFileError("is no PNG or JPEG image") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise RefusedFileError("has too many pixels to be an image of a patient") from error
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise half a dozen kinds for a damaged file
            raise RefusedFileError(f"is truncated or damaged ({' '.join(str(error).split())})") from error


def decode(content: bytes) -> Image.Image:
    """Decode every pixel of a PNG or JPEG file into a grey image, see `to_grey`.

    Raises:
        RefusedFileError: no image, truncated, 0 bytes, or in colour.
    """
    if not content:
        raise RefusedFileError("has 0 bytes")
    with refusals(), Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return to_grey(image)


def to_grey(image: Image.Image) -> Image.Image:
    """The picture as mode `L` (8 bit) or `I;16` (16 bit), upright as its EXIF orientation says.

    A colour file whose channels agree to within 8 of 255 everywhere is a grey picture.

    Raises:
        RefusedFileError: the picture is in colour or partly transparent.
    """
    with refusals():
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("L", "I;16"):
            return upright
        if upright.mode == "1":
            return upright.convert("L")
        if upright.mode not in ("LA", "P", "RGB", "RGBA"):
            raise RefusedFileError(f"is not a grey image (mode {upright.mode})")
        red, green, blue, alpha = upright.convert("RGBA").split()
        if alpha.getextrema() != (255, 255):
            raise RefusedFileError("is partly transparent")
        for one, other in combinations((red, green, blue), 2):
            if _largest(ImageChops.difference(one, other)) > _COLOUR_TOLERANCE:
                raise RefusedFileError("is a colour image")
        return upright.convert("RGB").convert("L")


def bits_of(image: Image.Image) -> int:
    """Bit depth of an image that `to_grey` returned: 8 or 16."""
    return 16 if image.mode == "I;16" else 8


def _largest(channel: Image.Image) -> int:
    _, largest = channel.getextrema()
    assert isinstance(largest, int)
    return largest
