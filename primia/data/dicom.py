"""From a DICOM radiograph to grey values, or the reason why it is refused; nothing of its header is ever repeated.

The standard is cited as PS3.3 and PS3.5 (DICOM 2025). Only what is known by name in the tables here shows in a
message: any field of a header may hold the name of a patient.
"""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from primia.data.decoding import RefusedFileError

if TYPE_CHECKING:
    from pydicom import Dataset

RADIOGRAPHS = ("CR", "DX", "RG")
MOST_FILE_BYTES = 256 << 20
MOST_PIXELS = 64_000_000  # a chest radiograph has up to 20 million
MOST_SIDE = 16_384

_WAY_OUT = "give a single radiograph, as DICOM without compression or as a grey PNG or JPEG file"
_OTHER_MODALITIES = {
    "CT": "computed tomography",
    "MR": "magnetic resonance",
    "US": "ultrasound",
    "NM": "nuclear medicine",
    "PT": "positron emission tomography",
    "MG": "mammography",
    "XA": "angiography",
    "RF": "fluoroscopy",
    "IO": "an intra-oral radiograph",
    "PX": "a panoramic radiograph",
    "ES": "endoscopy",
    "XC": "a photograph",
    "SM": "a microscope slide",
    "OT": "other",
    "SC": "a secondary capture",
}
# Implicit little, explicit little, explicit big endian. Deflated is not among them: it may unpack to any size.
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")

# pydicom repeats offending values, names among them, in its log.
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)


def is_dicom(path: Path) -> bool:
    """Whether a file says so itself: `DICM` after a preamble of 128 bytes (PS3.10, 7.1). Names prove nothing."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_dicom(path: Path) -> NDArray[np.float32]:
    """A radiograph as grey values (height, width) in [0, 1], black to white as it is meant to be looked at.

    Stored values go through the modality's slope and intercept (PS3.3, C.11.1), then through the first window (C.11.2).
    Without a window, the full range of the stored bits becomes [0, 1]: the range that occurs in the picture would
    make the same tissue brighter or darker with whatever else is in the picture, and 8 or 16 stored bits become what
    a PNG file of the same pixels gives. MONOCHROME1 is turned round last.

    Raises:
        RefusedFileError: no single uncompressed grey radiograph, truncated, damaged, or of an absurd size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they repeat values
            return _read(path)
    except (RefusedFileError, MemoryError):
        raise
    except Exception:  # pydicom raises many kinds for a damaged file, with values in their text
        raise _refused("is truncated or damaged") from None


def _refused(reason: str, way_out: str = _WAY_OUT) -> RefusedFileError:
    return RefusedFileError(reason, way_out=way_out)


def _read(path: Path) -> NDArray[np.float32]:
    from pydicom import dcmread
    from pydicom.filereader import read_file_meta_info

    if path.stat().st_size > MOST_FILE_BYTES:
        raise _refused(f"has more than {MOST_FILE_BYTES >> 20} MiB, too many for one radiograph")
    _check_syntax(read_file_meta_info(path).get("TransferSyntaxUID"))
    header = dcmread(path)
    _check_kind(header)
    _check_layout(header)
    values, low, high = _modality_values(header)
    grey = _windowed(header, values, low, high)
    return (1.0 - grey if header.PhotometricInterpretation == "MONOCHROME1" else grey).astype(np.float32)


def _check_syntax(syntax: Any) -> None:
    from pydicom.uid import AllTransferSyntaxes

    if syntax in _UNCOMPRESSED:
        return
    name = next((known.name for known in AllTransferSyntaxes if known == syntax), "of a kind that is not known")
    raise _refused(f"is compressed ({name})", "export it uncompressed (explicit VR little endian), or as a grey PNG")


def _check_kind(header: "Dataset") -> None:
    modality = header.get("Modality")
    if modality not in RADIOGRAPHS:
        known = _OTHER_MODALITIES.get(modality or "") if isinstance(modality, str) else None
        said = f"of modality {modality} ({known})" if known else "of a modality that is not known"
        raise _refused(f"is {said}, not a radiograph", f"give a radiograph, of modality {', '.join(RADIOGRAPHS)}")
    if header.get("BurnedInAnnotation") == "YES":
        raise _refused(
            "has writing burned into its pixels, which may name the patient and mislead the model",
            "export it again without annotations",
        )
    if header.get("PresentationIntentType") == "FOR PROCESSING":
        raise _refused("holds a detector's raw values, not a picture", "export the image that is for presentation")


def _check_layout(header: "Dataset") -> None:
    rows, columns = int(header.get("Rows") or 0), int(header.get("Columns") or 0)
    if rows < 1 or columns < 1:
        raise _refused("has no rows or no columns of pixels")
    if max(rows, columns) > MOST_SIDE or rows * columns > MOST_PIXELS:
        raise _refused("has too many pixels to be an image of a patient")
    if int(header.get("NumberOfFrames") or 1) != 1:
        raise _refused("holds more than one picture")
    if int(header.get("SamplesPerPixel") or 1) != 1:
        raise _refused("is a colour image")
    if header.get("PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        raise _refused("is not a grey image (neither MONOCHROME1 nor MONOCHROME2)")
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    if allocated not in (8, 16) or not 8 <= stored <= allocated or int(header.HighBit) != stored - 1:
        raise _refused("has another bit depth than 8 to 16, from the lowest bit upwards")
    if int(header.PixelRepresentation) not in (0, 1):
        raise _refused("does not say whether its pixels are signed")
    if not header.get("PixelData"):
        raise _refused("holds no pixels")
    size = rows * columns * allocated // 8
    if len(header.PixelData) not in (size, size + size % 2):  # padded to an even length (PS3.5, 8.1.1)
        raise _refused("holds another number of pixels than it says")


def _modality_values(header: "Dataset") -> tuple[NDArray[np.float64], float, float]:
    """The values after slope and intercept, and the least and the largest that the stored bits can give."""
    stored, signed = int(header.BitsStored), int(header.PixelRepresentation)
    bits = header.pixel_array.astype(np.int32)
    # Overlays of old scanners live in the bits above those of the pixel.
    bits &= (1 << stored) - 1
    if signed:
        bits -= (bits >> (stored - 1)) << stored
    if "ModalityLUTSequence" in header:
        raise _refused("needs a look-up table of its modality (ModalityLUTSequence)", "export it as a grey PNG")
    (slope, *_), (intercept, *_) = (
        _numbers(header, "RescaleSlope") or [1.0],
        _numbers(header, "RescaleIntercept") or [0.0],
    )
    least, largest = (-(1 << (stored - 1)), (1 << (stored - 1)) - 1) if signed else (0, (1 << stored) - 1)
    ends = sorted((least * slope + intercept, largest * slope + intercept))
    if not np.isfinite(ends).all() or ends[0] == ends[1]:
        raise _refused("has a slope or intercept (RescaleSlope) that leaves no picture")
    return np.asarray(bits * slope + intercept, dtype=np.float64), ends[0], ends[1]


def _windowed(header: "Dataset", values: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Values to [0, 1] by the first window, or by [low, high] without one."""
    centers, widths = _numbers(header, "WindowCenter"), _numbers(header, "WindowWidth")
    if not centers or not widths:
        if "VOILUTSequence" in header:
            raise _refused("needs a look-up table for its contrast (VOILUTSequence)", "export it as a grey PNG")
        return (values - low) / (high - low)
    center, width, kind = centers[0], widths[0], header.get("VOILUTFunction") or "LINEAR"
    least = 1.0 if kind == "LINEAR" else 0.0  # C.11.2.1.2.1, C.11.2.1.3
    if not (np.isfinite(center) and np.isfinite(width) and width > least):
        raise _refused("has a window (WindowWidth) that leaves no picture")
    if kind == "SIGMOID":
        return np.asarray(1.0 / (1.0 + np.exp(np.clip(-4.0 * (values - center) / width, -700, 700))))
    if kind not in ("LINEAR", "LINEAR_EXACT"):
        raise _refused("has a window of a kind that is not known (VOILUTFunction)", "export it as a grey PNG")
    if kind == "LINEAR":
        center, width = center - 0.5, width - 1.0
    return np.clip((values - center) / width + 0.5, 0.0, 1.0)


def _numbers(header: "Dataset", name: str) -> list[float]:
    """The values of a field that may hold several, or none."""
    value = header.get(name)
    if value is None or value == "":
        return []
    return [float(value)] if isinstance(value, (str, int, float)) else [float(one) for one in value]
