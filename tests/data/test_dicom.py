"""DICOM radiographs through the pipeline's preprocessing, and everything else refused without repeating a name."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from dicom_files import PATIENT, write_dicom
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import encoded, texture
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.processing import apply_rescale, apply_windowing
from pydicom.sequence import Sequence

from primia.data.decoding import RefusedFileError, decode
from primia.data.dicom import read_dicom
from primia.data.preprocess import load_image
from primia.errors import DataError

ROOT = Path(__file__).parents[2]
REAL_DATA = Path(os.environ.get("PRIMIA_REAL_DATA", ROOT / "../shared/data"))


def sentence(path: Path, *, match: str) -> str:
    """The refusal, which is one sentence and names nobody."""
    with pytest.raises(DataError, match=match) as caught:
        load_image(path, pixels=16)
    said = str(caught.value)
    assert said.startswith(f"The image {path} ") and said.endswith(".") and "\n" not in said
    assert said.count("; ") == 1  # what is wrong; the way out
    error: BaseException | None = caught.value
    while error is not None:
        assert "Curie" not in str(error) and "Marie" not in str(error)
        error = error.__cause__
    return said


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(24, 24), (97, 61), (64, 65)])
def test_a_dicom_and_a_png_of_the_same_pixels_are_the_same_image(tmp_path, bits, size) -> None:
    pixels = texture(3, height=size[0], width=size[1], bits=bits)
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    write_dicom(tmp_path / "a.dcm", pixels)
    assert torch.equal(load_image(tmp_path / "a.dcm", pixels=24), load_image(tmp_path / "a.png", pixels=24))


def test_the_content_decides_and_not_the_name(tmp_path) -> None:
    pixels = texture(3)
    (tmp_path / "png.dcm").write_bytes(encoded(pixels))
    write_dicom(tmp_path / "dicom.png", pixels)
    assert torch.equal(load_image(tmp_path / "dicom.png", pixels=24), load_image(tmp_path / "png.dcm", pixels=24))


@pytest.mark.parametrize("bits", [8, 16])
def test_monochrome1_is_its_negative(tmp_path, bits) -> None:
    pixels = texture(3, bits=bits)
    write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1")
    write_dicom(tmp_path / "b.dcm", np.invert(pixels))
    assert torch.equal(load_image(tmp_path / "a.dcm", pixels=24), load_image(tmp_path / "b.dcm", pixels=24))


@settings(max_examples=40)
@given(stored=st.integers(8, 16), signed=st.booleans(), big=st.booleans(), seed=st.integers(0, 99))
def test_the_full_range_of_the_stored_bits_becomes_0_to_1(tmp_path_factory, stored, signed, big, seed) -> None:
    lowest = -(1 << (stored - 1)) if signed else 0
    values = np.random.default_rng(seed).integers(0, 1 << stored, (24, 24)) + lowest
    values[0, :2] = lowest, lowest + (1 << stored) - 1
    path = tmp_path_factory.mktemp("dicom") / "a.dcm"
    syntax = "1.2.840.10008.1.2.2" if big else "1.2.840.10008.1.2"
    write_dicom(path, values.astype(np.int16 if signed else np.uint16), syntax=syntax, BitsStored=stored)
    grey = read_dicom(path)
    assert (grey[0, 0], grey[0, 1]) == (0.0, 1.0)
    assert np.array_equal(grey, ((values - lowest) / ((1 << stored) - 1)).astype(np.float32))


def test_what_lies_in_the_bits_above_the_stored_ones_is_no_pixel(tmp_path) -> None:
    pixels = texture(3, bits=16) & 0x0FFF
    write_dicom(tmp_path / "clean.dcm", pixels, BitsStored=12)
    write_dicom(tmp_path / "overlay.dcm", pixels | 0x5000, BitsStored=12)
    assert np.array_equal(read_dicom(tmp_path / "clean.dcm"), read_dicom(tmp_path / "overlay.dcm"))


@settings(max_examples=40)
@given(
    center=st.floats(-3000, 5000),
    width=st.floats(2, 5000),
    slope=st.sampled_from([1.0, 0.5, 2.25, -1.0]),
    intercept=st.sampled_from([0.0, -1024.0, 17.5]),
    kind=st.sampled_from([None, "LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_slope_intercept_and_the_first_window_are_those_of_the_standard(
    tmp_path_factory, center, width, slope, intercept, kind
) -> None:
    path = tmp_path_factory.mktemp("dicom") / "a.dcm"
    center, width = round(center, 3), round(width, 3)
    fields = {"WindowCenter": [center, 1.0], "WindowWidth": [width, 2.0]} | ({"VOILUTFunction": kind} if kind else {})
    pixels = texture(3, bits=16) & 0x0FFF
    write_dicom(path, pixels, BitsStored=12, RescaleSlope=slope, RescaleIntercept=intercept, **fields)
    header = dcmread(path)
    with np.errstate(over="ignore"):
        windowed = apply_windowing(apply_rescale(header.pixel_array, header), header, index=0)
    black, white = intercept, 4095 * slope + intercept  # pydicom's range, in which it gives the window
    np.testing.assert_allclose(read_dicom(path), (windowed - black) / (white - black), atol=1e-6)


@pytest.mark.parametrize(
    "fields", [{"WindowCenter": 128, "WindowWidth": None}, {"WindowCenter": "", "WindowWidth": ""}]
)
def test_half_a_window_is_none(tmp_path, fields) -> None:
    pixels = texture(3)
    write_dicom(tmp_path / "half.dcm", pixels, **fields)
    write_dicom(tmp_path / "none.dcm", pixels)
    assert np.array_equal(read_dicom(tmp_path / "half.dcm"), read_dicom(tmp_path / "none.dcm"))


def test_a_negative_slope_turns_the_picture_round(tmp_path) -> None:
    pixels = texture(3)
    write_dicom(tmp_path / "a.dcm", pixels, RescaleSlope=-1, RescaleIntercept=255)
    write_dicom(tmp_path / "b.dcm", np.invert(pixels))
    assert np.array_equal(read_dicom(tmp_path / "a.dcm"), read_dicom(tmp_path / "b.dcm"))


@pytest.mark.parametrize(
    ("modality", "reason"),
    [
        (
            "MR",
            r"is of modality MR \(magnetic resonance\), not a radiograph; give a radiograph, of modality CR, DX, RG",
        ),
        ("CT", r"is of modality CT \(computed tomography\)"),
        ("US", r"is of modality US \(ultrasound\)"),
        ("OT", r"is of modality OT \(other\)"),
        ("MARIE", "is of a modality that is not known"),
        ("", "is of a modality that is not known"),
        (["CR", "MR"], "is of a modality that is not known"),
    ],
)
def test_what_is_no_radiograph_is_refused_by_its_modality(tmp_path, modality, reason) -> None:
    sentence(write_dicom(tmp_path / "a.dcm", texture(3), Modality=modality), match=reason)


@pytest.mark.parametrize("modality", ["CR", "DX", "RG"])
def test_radiographs_are_taken(tmp_path, modality) -> None:
    assert load_image(write_dicom(tmp_path / "a.dcm", texture(3), Modality=modality), pixels=16).shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.50", r"JPEG Baseline"),
        ("1.2.840.10008.1.2.4.90", "JPEG 2000"),
        ("1.2.840.10008.1.2.5", "RLE Lossless"),
        ("1.2.840.10008.1.2.1.99", "Deflated Explicit VR Little Endian"),
        ("1.2.3.4", "of a kind that is not known"),
    ],
)
def test_compressed_pixels_are_refused_and_the_syntax_named(tmp_path, syntax, name) -> None:
    path = write_dicom(tmp_path / "a.dcm", texture(3))
    content = path.read_bytes()
    padded = syntax.encode() + bytes(len(syntax) % 2)
    old = b"1.2.840.10008.1.2.1\0"
    assert content.count(old) == 1
    at = content.index(old)
    group = int.from_bytes(content[140:144], "little") + len(padded) - len(old)
    changed = content[: at - 2] + len(padded).to_bytes(2, "little") + padded + content[at + len(old) :]
    path.write_bytes(changed[:140] + group.to_bytes(4, "little") + changed[144:])
    assert "export it uncompressed" in sentence(path, match=rf"is compressed \({name}")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"BurnedInAnnotation": "YES"}, "has writing burned into its pixels.*; export it again without annotations"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "raw values.*; export the image that is for presentation"),
        ({"NumberOfFrames": 2}, "holds more than one picture"),
        ({"SamplesPerPixel": 3}, "is a colour image"),
        ({"PhotometricInterpretation": "RGB"}, "is not a grey image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "is not a grey image"),
        ({"Rows": 0}, "has no rows or no columns"),
        ({"Columns": 0}, "has no rows or no columns"),
        ({"Rows": 65535, "Columns": 65535}, "has too many pixels"),
        ({"Rows": 1, "Columns": 20000}, "has too many pixels"),
        ({"Rows": 25}, "holds another number of pixels than it says"),
        ({"Columns": 23}, "holds another number of pixels than it says"),
        ({"PixelData": b""}, "holds no pixels"),
        ({"BitsStored": 7}, "has another bit depth than 8 to 16"),
        ({"BitsStored": 12}, "has another bit depth than 8 to 16"),
        ({"HighBit": 6}, "has another bit depth than 8 to 16"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "has another bit depth than 8 to 16"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "has another bit depth than 8 to 16"),
        ({"PixelRepresentation": 2}, "does not say whether its pixels are signed"),
        ({"RescaleSlope": 0}, "has a slope or intercept"),
        ({"WindowCenter": 100, "WindowWidth": 1}, "has a window"),
        ({"WindowCenter": 100, "WindowWidth": -5}, "has a window"),
        (
            {"WindowCenter": 100, "WindowWidth": 50, "VOILUTFunction": "CURIE"},
            "has a window of a kind that is not known",
        ),
        ({"VOILUTSequence": Sequence([Dataset()])}, "needs a look-up table for its contrast"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, "needs a look-up table of its modality"),
    ],
)
def test_what_cannot_be_shown_as_it_is_meant_is_refused(tmp_path, fields, reason) -> None:
    sentence(write_dicom(tmp_path / "a.dcm", texture(3), **fields), match=reason)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("PixelData", "holds no pixels"),
        ("Rows", "has no rows or no columns"),
        ("Modality", "of a modality that is not known"),
        ("PhotometricInterpretation", "is not a grey image"),
        ("BitsStored", "is truncated or damaged"),
        ("PixelRepresentation", "is truncated or damaged"),
    ],
)
def test_what_is_missing_is_said(tmp_path, name, reason) -> None:
    sentence(write_dicom(tmp_path / "a.dcm", texture(3), without=[name]), match=reason)


def test_a_picture_and_a_window_go_before_a_table_that_stands_beside_it(tmp_path) -> None:
    pixels = texture(3)
    window = {"WindowCenter": 100, "WindowWidth": 50}
    write_dicom(tmp_path / "a.dcm", pixels, VOILUTSequence=Sequence([Dataset()]), **window)
    write_dicom(tmp_path / "b.dcm", pixels, **window)
    assert np.array_equal(read_dicom(tmp_path / "a.dcm"), read_dicom(tmp_path / "b.dcm"))


def test_a_file_cut_off_anywhere_is_refused(tmp_path) -> None:
    content = write_dicom(tmp_path / "whole.dcm", texture(3)).read_bytes()
    path = tmp_path / "cut.dcm"
    for length in [*range(132, len(content) - 1, 37), len(content) - 1]:
        path.write_bytes(content[:length])
        sentence(path, match="; ")


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(132, 900), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_damaged_header_ends_in_a_picture_or_in_one_sentence(tmp_path_factory, changes) -> None:
    path = write_dicom(tmp_path_factory.mktemp("dicom") / "a.dcm", texture(3))
    content = bytearray(path.read_bytes())
    for position, value in changes:
        content[position] = value
    path.write_bytes(content)
    try:
        grey = read_dicom(path)
    except RefusedFileError as refusal:
        assert "Curie" not in str(refusal)
    else:
        assert grey.min() >= 0.0 and grey.max() <= 1.0


def test_nothing_of_a_header_gets_into_a_log(tmp_path, caplog) -> None:
    path = write_dicom(tmp_path / "a.dcm", texture(3))
    content = path.read_bytes()
    # a name where a number belongs: pydicom would complain and repeat it
    path.write_bytes(content.replace(b"CS\x02\x00CR", b"CS\x02\x00\xff\xfe").replace(b"LO", b"DS"))
    with caplog.at_level(logging.DEBUG):
        sentence(path, match="; ")
    assert "Marie" not in caplog.text and PATIENT not in caplog.text


def test_a_huge_file_is_refused_unread(tmp_path) -> None:
    path = write_dicom(tmp_path / "a.dcm", texture(3))
    os.truncate(path, 10 << 30)  # sparse
    sentence(path, match="has more than 256 MiB")


def test_ingest_takes_png_and_jpeg_only(tmp_path) -> None:
    with pytest.raises(RefusedFileError, match="is no PNG or JPEG image"):
        decode(write_dicom(tmp_path / "a.dcm", texture(3)).read_bytes())


def test_real_images_of_the_brain_are_refused_by_their_modality() -> None:
    paths = sorted((REAL_DATA / "dicom_brain_mr").rglob("*.dcm"))
    if not paths:
        pytest.skip(f"no DICOM files of magnetic resonance in {REAL_DATA}; name their folder with PRIMIA_REAL_DATA")
    for path in paths:
        sentence(path, match=r"is of modality MR \(magnetic resonance\), not a radiograph")
