"""A NIfTI file is one volume with a place in space, or is refused with one reason."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nifti_files import SHAPE, affine, intensities, save, structures

from primia.data.nifti import read_volume, stem_of, values_of, write_mask
from primia.errors import DataError


def sentence(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_volume(path)
    said = str(caught.value)
    assert str(path) in said and said.endswith(".") and "\n" not in said
    return said


def patched(path: Path, offset: int, kind: str, *values: float) -> Path:
    """An uncompressed NIfTI-1 file whose header says something else at `offset`."""
    save(path, intensities(structures(), seed=1))
    content = bytearray(path.read_bytes())
    struct.pack_into(f"<{kind}", content, offset, *values)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("stored", [np.uint8, np.int16, np.float32, np.float64])
def test_a_volume_is_read_as_it_was_written(tmp_path, kind, suffix, stored):
    values = (structures() * 100).astype(stored)
    image = read_volume(save(tmp_path / f"a{suffix}", values, affine(tilt=0.3), kind=kind))
    assert np.array_equal(values_of(image), values) and values_of(image).dtype == np.float32
    assert np.allclose(image.affine, affine(tilt=0.3), atol=1e-4)


def test_slope_and_intercept_of_the_header_count(tmp_path):
    path = save(tmp_path / "a.nii", structures().astype(np.int16))
    content = bytearray(path.read_bytes())
    struct.pack_into("<ff", content, 112, 2.5, -1000.0)
    path.write_bytes(content)
    assert np.array_equal(values_of(read_volume(path)), structures() * 2.5 - 1000)


def test_intensities_may_be_as_high_as_scanners_write_them(tmp_path):
    path = save(tmp_path / "a.nii.gz", intensities(structures(), seed=1, high=1.7e6))
    assert values_of(read_volume(path)).max() > 1.2e6


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "has 0 bytes"),
    "text": (lambda path: path.write_text("patient has a cough" * 50), "is no NIfTI volume"),
    "short text": (lambda path: path.write_text("cough"), "is no NIfTI volume"),
    "text in gzip": (lambda path: path.write_bytes(gzip.compress(b"cough" * 500)), "is no NIfTI volume"),
    "broken gzip": (lambda path: path.write_bytes(b"\x1f\x8bcough"), "is truncated or damaged"),
    "four dimensions": (
        lambda path: save(path, np.zeros((*SHAPE, 3), np.float32)),
        r"has 4 dimensions \(18 x 22 x 14 x 3\) instead of 3",
    ),
    "two dimensions": (lambda path: save(path, np.zeros((8, 9), np.float32)), "has 2 dimensions"),
    "nan": (lambda path: save(path, np.where(structures() == 1, np.nan, 1.0)), "NaN or infinity"),
    "infinity": (lambda path: save(path, np.where(structures() == 1, np.inf, 1.0)), "NaN or infinity"),
    "beyond single precision": (lambda path: save(path, np.full(SHAPE, 1e300)), "NaN or infinity"),
    "complex": (lambda path: save(path, np.ones(SHAPE, np.complex64)), "holds colours or complex numbers"),
    "colour": (
        lambda path: save(path, np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "holds colours or complex numbers",
    ),
    "no spacing": (lambda path: patched(path, 84, "f", 0.0), r"has voxels without a size \(1 x 0 x 1 mm\)"),
    "flat": (lambda path: patched(path, 312, "4f", 0, 0, 0, 0), "its affine matrix is singular"),
    "nowhere": (lambda path: patched(path, 280, "f", float("nan")), "its affine matrix is singular"),
    "no voxels": (lambda path: patched(path, 42, "h", 0), "has no voxels"),
    "absurd": (lambda path: patched(path, 42, "3h", 2000, 2000, 2000), "has 2000 x 2000 x 2000 voxels, too many"),
    "longer than it is": (lambda path: patched(path, 42, "3h", 200, 200, 200), "it ends before its last voxel"),
    "longer than it says": (
        lambda path: path.write_bytes(save(path.with_name("b.nii"), structures()).read_bytes() + bytes(2 << 20)),
        "holds more than its header says",
    ),
    "starts nowhere": (lambda path: patched(path, 108, "f", 1e12), "is damaged"),
    "starts in its header": (
        lambda path: patched(path, 108, "f", 0),
        r"is damaged \(its voxels would start at byte 0\)",
    ),
    "unknown type": (lambda path: patched(path, 70, "h", 1234), "is truncated or damaged"),
}


def test_a_qfac_of_zero_means_one_as_the_standard_says(tmp_path):
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(structures(), affine(directions=(-1, 1, 1), spacing=(1.0, 2.0, 3.0)))
    image.set_sform(None, code=0)
    image.set_qform(affine(spacing=(1.0, 2.0, 3.0)), code=1)
    image.to_filename(path)
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 76, 0.0)
    path.write_bytes(content)
    assert np.allclose(read_volume(path).affine, affine(spacing=(1.0, 2.0, 3.0)), atol=1e-3)


DAMAGED_PLACE = {
    "no quaternion": (lambda path: patched(path, 252, "2h6f", 1, 1, 0.9, 0.9, 0.9, 0, 0, 0), "has a damaged qform"),
    "quaternion of NaN": (lambda path: patched(path, 252, "2h1f", 1, 1, float("nan")), "has a damaged qform"),
    "sheared": (lambda path: patched(path, 280, "8f", 1, 0.3, 0, 0, 0, 1, 0, 0), "not at right angles"),
    "a cell": (lambda path: save(path, structures(), affine(spacing=(1e-3,) * 3)), "0.022 mm long, which no scan is"),
    "a house": (lambda path: save(path, structures(), affine(spacing=(500.0,) * 3)), "mm long, which no scan is"),
    "tilted gantry": (lambda path: patched(path, 296, "8f", 0, 1, 0.05, 0, 0, 0, 1, 0), "not at right angles"),
    "unknown sform code": (lambda path: patched(path, 254, "h", 6), "has the unknown sform_code 6"),
    "unknown qform code": (lambda path: patched(path, 252, "h", -3), "has the unknown qform_code -3"),
    "parallel axes": (lambda path: patched(path, 280, "8f", 1, 1, 0, 0, 0.1, 0, 0, 0), "not at right angles"),
}


@pytest.mark.parametrize("name", DAMAGED_PLACE)
def test_a_place_that_is_none_or_cannot_be_measured_in_is_refused_with_a_way_out(tmp_path, name):
    write, reason = DAMAGED_PLACE[name]
    write(tmp_path / "a.nii")
    assert f"{reason}; " in sentence(tmp_path / "a.nii")


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_with_one_reason(tmp_path, name):
    write, reason = BAD[name]
    path = tmp_path / "a.nii"
    write(path)
    with pytest.raises(DataError, match=reason):
        read_volume(path)
    assert "; give one volume of three dimensions" in sentence(path)


def test_a_volume_must_say_how_it_lies_and_in_millimetres(tmp_path):
    patched(tmp_path / "a.nii", 252, "2h", 0, 0)
    assert "neither qform nor sform is coded); set its qform or its sform" in sentence(tmp_path / "a.nii")
    patched(tmp_path / "a.nii", 123, "b", 1)
    assert "gives lengths in meter; give it in millimetres" in sentence(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", intensities(structures(), seed=1))
    whole = path.read_bytes()
    for kept in (1, 100, 347, 352, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        assert "truncated or damaged" in sentence(path) or "is no NIfTI volume" in sentence(path)


def test_a_flipped_bit_in_a_compressed_file_is_noticed(tmp_path):
    path = save(tmp_path / "a.nii.gz", structures())
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(content)
    assert "truncated or damaged" in sentence(path)


def test_a_bomb_is_refused_before_it_unpacks(tmp_path):
    save(tmp_path / "a.nii", structures())
    start = bytearray((tmp_path / "a.nii").read_bytes()[:352])
    struct.pack_into("<3h", start, 42, 30_000, 30_000, 30_000)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(start) + bytes(50 << 20)))
    assert "too many for a volume of a patient" in sentence(tmp_path / "bomb.nii.gz")
    struct.pack_into("<3h", start, 42, 18, 22, 14)
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(bytes(start) + bytes(50 << 20)))
    assert "holds more than its header says" in sentence(tmp_path / "bomb.nii.gz")


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    assert "does not exist; correct the path" in sentence(tmp_path / "a.nii")
    assert "is a folder; name a file in it" in sentence(tmp_path)
    assert "cannot be read (File name too long)" in sentence(tmp_path / f"{'a' * 300}.nii")


def test_a_name_loses_its_suffix_and_nothing_else():
    names = ["a.nii", "a.nii.gz", "A.NII.GZ", "a.b.nii.gz", "nii", "a.gz"]
    assert [stem_of(name) for name in names] == ["a", "a", "A", "a.b", "nii", "a.gz"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_mask_lies_on_its_volume_and_repeats_none_of_its_texts(tmp_path, suffix):
    image = nibabel.Nifti1Image(intensities(structures(), seed=1), affine(order=(2, 0, 1), tilt=0.4))
    image.header["descrip"] = b"Marie Curie"
    image.to_filename(tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    for name in ("x", "y"):
        write_mask(tmp_path / f"{name}{suffix}", structures(), like=volume)
    written = read_volume(tmp_path / f"x{suffix}")
    assert np.array_equal(np.asarray(written.dataobj), structures()) and written.get_data_dtype() == np.uint8
    assert np.allclose(written.affine, volume.affine, atol=1e-5)
    assert b"Marie" not in written.to_bytes()
    assert (tmp_path / f"x{suffix}").read_bytes() == (tmp_path / f"y{suffix}").read_bytes()


def test_a_mask_has_both_forms_of_its_volumes_place_as_they_are(tmp_path):
    """A viewer may read either, and they may differ."""
    image = nibabel.Nifti1Image(structures(), affine())
    image.set_qform(affine(origin=(0, 0, 0), spacing=(1.0, 1.0, 1.0)), code=1)
    image.set_sform(affine(origin=(50, 60, 70)), code=4)
    image.to_filename(tmp_path / "both.nii")
    image.set_sform(None, code=0)
    image.to_filename(tmp_path / "quaternion.nii")
    for name in ("both", "quaternion"):
        volume = read_volume(tmp_path / f"{name}.nii")
        write_mask(tmp_path / "mask.nii", structures(), like=volume)
        mask = nibabel.load(tmp_path / "mask.nii")
        for form in ("get_qform", "get_sform"):
            (theirs, code), (ours, same) = (getattr(each, form)(coded=True) for each in (volume, mask))
            assert code == same and ((theirs is None and ours is None) or np.allclose(theirs, ours, atol=1e-5))
        assert np.allclose(mask.affine, volume.affine, atol=1e-5)


def test_a_mask_may_be_as_long_as_its_volume(tmp_path):
    values = np.zeros((40_000, 2, 2), np.uint8)  # NIfTI-1 ends at 32767
    path = save(tmp_path / "a.nii", values, affine(spacing=(0.05, 1.0, 1.0)), kind=nibabel.Nifti2Image)
    volume = read_volume(path)
    values[-1] = 1
    write_mask(tmp_path / "b.nii", values, like=volume)
    written = read_volume(tmp_path / "b.nii")
    assert np.array_equal(values_of(written), values) and np.array_equal(written.affine, volume.affine)
