"""From the bytes of a NIfTI file to one volume, or the reason why it is refused; and back to a file."""

import gzip
import io
import logging
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from primia.data.decoding import RefusedFileError
from primia.errors import DataError
from primia.files import write_bytes

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header, Nifti1Image

SUFFIXES = (".nii.gz", ".nii")
MOST_VOXELS = 2**30  # the longest CT scans of a whole body have a third of that
MOST_FILE_BYTES = 8 * MOST_VOXELS + (1 << 20)
MOST_INTENSE = 1e30  # differences of twice that are still numbers in float32; scanners end far below

_WAY_OUT = "give one volume of three dimensions, as .nii or .nii.gz"
# Determinant of the directions of the axes: 1 at right angles, where distances are measured; this is a shear of 0.8
# degrees in one plane, more than files round away.
_LEAST_UPRIGHT = 0.9999
_EXTENT = (2.5, 3000.0)  # mm along the longest axis: from the retina to a whole body
_CODES = range(6)  # of a place: from none to another template; nibabel reads any other one as none
_MOST_BEFORE_DATA = 64 << 20  # header extensions
_MOST_BEHIND_DATA = 1 << 20
_CHUNK = 16 << 20

# nibabel reports oddities that it can live with in its log.
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)


def stem_of(name: str) -> str:
    """A file's name without .nii or .nii.gz; other names stay as they are."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name.removesuffix(name[-len(suffix) :]) if suffix else name


def read_volume(path: Path) -> "Nifti1Image":
    """Read and check one file; see `decode_volume`.

    Raises:
        DataError: the file is missing, damaged, or no volume that can be used.
    """
    try:
        if path.is_dir():
            raise DataError(f"The volume {path} is a folder; name a file in it.")
        if not path.is_file():
            raise DataError(f"The volume {path} does not exist; correct the path.")
        with path.open("rb") as stream:
            return decode_volume(stream)
    except OSError as error:
        raise DataError(f"The volume {path} cannot be read ({error.strerror}); give read permission.") from error
    except RefusedFileError as refusal:
        raise DataError(f"The volume {path} {refusal}; {refusal.way_out}.") from refusal


def decode_volume(stream: BinaryIO) -> "Nifti1Image":
    """Read a NIfTI-1 or NIfTI-2 file, compressed or not; its first bytes say which.

    The header is checked before the voxels are unpacked, and no more is unpacked than it announces.

    Raises:
        RefusedFileError: no NIfTI file, truncated, 0 bytes, not of three dimensions, without a place in space, of an
            absurd size, or with values that are no finite real numbers or beyond 1e30.
    """
    try:
        image = _decode(stream)
        values = values_of(image)
        most = float(max(values.max(), -values.min()))  # NaN if one value is
    except (RefusedFileError, MemoryError):
        raise
    except Exception as error:  # gzip, zlib and nibabel raise half a dozen kinds for a damaged file
        raise _refused(f"is truncated or damaged ({' '.join(str(error).split())})") from error
    if not math.isfinite(most):
        raise _refused("holds values that are no finite numbers (NaN or infinity)")
    if most > MOST_INTENSE:
        raise _refused(f"holds the value {most:.3g}, which no scanner gives", way_out="correct its values")
    return image


def values_of(image: "Nifti1Image") -> NDArray[np.float32]:
    """The voxels as they are stored, (i, j, k), after the header's slope and intercept."""
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is refused for that
        return np.asarray(image.dataobj, dtype=np.float32)


def is_blank(image: "Nifti1Image") -> bool:
    """Whether all voxels have the same value."""
    values = values_of(image)
    return bool(values.min() == values.max())


def write_mask(path: Path, classes: NDArray[np.uint8], *, like: "Nifti1Image") -> None:
    """Write a class for every voxel of `like`, at the same place in space, compressed if the name ends in .gz.

    Both forms of the place are repeated as they are, since viewers trust one or the other. Nothing else of the header
    of `like` is: its text fields may hold names. Equal masks give equal bytes.
    """
    assert classes.dtype == np.uint8 and classes.shape == like.shape
    image = type(like)(classes, like.affine)  # NIfTI-1 ends at 32767 voxels along an axis
    image.set_qform(*like.get_qform(coded=True))
    image.set_sform(*like.get_sform(coded=True))
    image.header.set_xyzt_units(like.header.get_xyzt_units()[0])
    content = image.to_bytes()
    write_bytes(path, gzip.compress(content, mtime=0) if path.name.lower().endswith(".gz") else content)


def _refused(reason: str, *, way_out: str = _WAY_OUT) -> RefusedFileError:
    return RefusedFileError(reason, way_out=way_out)


def _decode(stream: BinaryIO) -> "Nifti1Image":
    beginning = stream.read(2)
    if not beginning:
        raise _refused("has 0 bytes")
    stream.seek(0)
    with gzip.open(stream) if beginning == b"\x1f\x8b" else nullcontext(stream) as unpacked:
        return _decode_unpacked(unpacked)


def _decode_unpacked(unpacked: BinaryIO | gzip.GzipFile) -> "Nifti1Image":
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image

    start = unpacked.read(max(Nifti1Image.header_class.sizeof_hdr, Nifti2Image.header_class.sizeof_hdr))
    for kind, magic in ((Nifti1Image, start[344:348]), (Nifti2Image, start[4:8])):
        # n+1 and n+2; a file of ni1 or ni2 keeps its voxels in another one.
        if magic[:2] == b"n+" and kind.header_class.may_contain_header(start):
            header = kind.header_class(start[: kind.header_class.sizeof_hdr], check=False)
            announced = _check_header(header)
            return kind.from_bytes(start + _rest(unpacked, announced - len(start)))
    raise _refused("is no NIfTI volume")


def _check_header(header: "Nifti1Header") -> int:
    """Bytes up to the end of the voxels."""
    shape = tuple(int(length) for length in header.get_data_shape())
    if len(shape) != 3:
        raise _refused(f"has {len(shape)} dimensions ({' x '.join(map(str, shape))}) instead of 3")
    if min(shape) < 1:
        raise _refused(f"has no voxels ({' x '.join(map(str, shape))})")
    if math.prod(shape) > MOST_VOXELS:
        raise _refused(f"has {' x '.join(map(str, shape))} voxels, too many for a volume of a patient")
    kind = header.get_data_dtype()
    if kind.kind not in "iuf":
        raise _refused("holds colours or complex numbers instead of one real number a voxel")
    spacing = [float(length) for length in header["pixdim"][1:4]]
    if not all(map(math.isfinite, spacing)) or 0.0 in spacing:
        raise _refused(f"has voxels without a size ({' x '.join(f'{length:g}' for length in spacing)} mm)")
    _check_place(header, shape)
    offset = float(header["vox_offset"])
    if not header.single_vox_offset <= offset <= _MOST_BEFORE_DATA:
        raise _refused(f"is damaged (its voxels would start at byte {offset:g})")
    return int(offset) + math.prod(shape) * int(kind.itemsize)


def _check_place(header: "Nifti1Header", shape: tuple[int, ...]) -> None:
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        raise _refused(f"gives lengths in {unit}", way_out="give it in millimetres")
    for name in ("sform_code", "qform_code"):
        if header[name] not in _CODES:
            raise _refused(
                f"has the unknown {name} {header[name]}", way_out="set it to 1 if that place is right, else 0"
            )
    if not (header["sform_code"] or header["qform_code"]):
        way_out = "set its qform or its sform once you know which side is right"
        raise _refused("does not say how it lies in the patient (neither qform nor sform is coded)", way_out=way_out)
    if abs(header["pixdim"][0]) != 1:
        header["pixdim"][0] = 1  # as the standard reads 0
    if header["qform_code"] and not _has_qform(header):
        raise _refused(
            "has a damaged qform", way_out="correct its quaternion, or set qform_code to 0 if its sform is right"
        )
    axes = header.get_best_affine()[:3, :3]
    with np.errstate(all="ignore"):  # axes without a length become NaN
        upright = abs(np.linalg.det(axes / np.linalg.norm(axes, axis=0))) if np.isfinite(axes).all() else 0.0
    if not upright > 0:
        raise _refused("has no place in space (its affine matrix is singular)")
    if upright < _LEAST_UPRIGHT:
        raise _refused("has axes that are not at right angles", way_out="resample it to a grid of right angles")
    longest = float((np.linalg.norm(axes, axis=0) * shape).max())
    if not _EXTENT[0] <= longest <= _EXTENT[1]:
        raise _refused(
            f"is {round(longest, 3):g} mm long, which no scan is", way_out="correct the unit or size of its voxels"
        )


def _has_qform(header: "Nifti1Header") -> bool:
    try:
        return bool(np.isfinite(header.get_qform()).all())
    except ValueError:  # nibabel's HeaderDataError is none
        return False


def _rest(stream: BinaryIO | gzip.GzipFile, count: int) -> bytes:
    """The next `count` bytes, read piece by piece: what a header announces need not be there."""
    content = io.BytesIO()
    while content.tell() < count:
        piece = stream.read(min(_CHUNK, count - content.tell()))
        if not piece:
            raise _refused("is truncated or damaged (it ends before its last voxel)")
        content.write(piece)
    if len(stream.read(_MOST_BEHIND_DATA)) == _MOST_BEHIND_DATA:  # gzip checks its sum at the end
        raise _refused("holds more than its header says")
    return content.getvalue()
