import subprocess
import sys

import numpy as np
import pytest
import torch
from image_files import encoded, rgb, texture, write_image
from PIL import Image

from primia.data.preprocess import load_image
from primia.errors import DataError


def test_top_stays_top_and_left_stays_left(tmp_path):
    pixels = np.zeros((40, 60), np.uint8)
    pixels[:10, :15] = 255  # only the top left corner is bright
    pixels[:10, 45:] = 100
    Image.fromarray(pixels).save(tmp_path / "corner.png")
    image = load_image(tmp_path / "corner.png", pixels=16)
    assert image.shape == (1, 16, 16) and image.dtype == torch.float16
    assert image[0, 0, 0] == 1.0
    assert image[0, 0, 15].item() == pytest.approx(100 / 255, abs=1e-3)
    assert image[0, 15, 0] == image[0, 15, 15] == 0.0


def test_an_image_of_the_right_size_is_only_scaled(tmp_path):
    write_image(tmp_path / "a.png", 3)
    expected = torch.from_numpy(texture(3).astype(np.float32) / 255).half()
    assert torch.equal(load_image(tmp_path / "a.png", pixels=24)[0], expected)


def test_sixteen_bits_are_scaled_by_their_own_range(tmp_path):
    write_image(tmp_path / "deep.png", 3, bits=16)
    expected = torch.from_numpy(texture(3, bits=16).astype(np.float32) / 65535).half()
    assert torch.equal(load_image(tmp_path / "deep.png", pixels=24)[0], expected)


def test_a_grey_picture_in_a_colour_file_is_the_same_picture(tmp_path):
    write_image(tmp_path / "a.png", 3)
    (tmp_path / "b.png").write_bytes(encoded(rgb(texture(3))))
    assert torch.equal(load_image(tmp_path / "a.png", pixels=16), load_image(tmp_path / "b.png", pixels=16))


def test_a_palette_is_looked_up(tmp_path):
    indices = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8).repeat(8, 0).repeat(8, 1))
    picture = indices.convert("P")
    picture.putpalette([255, 255, 255, 0, 0, 0])  # index 0 is white
    picture.save(tmp_path / "palette.png")
    image = load_image(tmp_path / "palette.png", pixels=16)
    assert image[0, 0, 0] == 1.0 and image[0, 0, 15] == 0.0


def test_an_exif_orientation_is_followed(tmp_path):
    pixels = np.zeros((24, 24), np.uint8)
    pixels[:12] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    image = load_image(tmp_path / "turned.png", pixels=24)
    assert image[0, 0, 0] == 0.0 and image[0, 23, 0] == 1.0


def test_each_pixel_is_the_mean_of_its_area_so_that_nothing_aliases_and_no_rim_darkens(tmp_path):
    write_image(tmp_path / "a.png", 3, height=96, width=48)
    means = (texture(3, height=96, width=48) / 255).reshape(24, 4, 24, 2).mean(axis=(1, 3))
    assert load_image(tmp_path / "a.png", pixels=24)[0].double().numpy() == pytest.approx(means, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("text.png", b"no picture", "is no PNG or JPEG image"),
        ("cut.jpg", encoded(texture(1), kind="JPEG")[:400], "is truncated or damaged"),
        ("colour.png", encoded(np.dstack([texture(1), texture(2), texture(3)])), "is a colour image"),
    ],
)
def test_what_ingest_refuses_cannot_be_loaded_either(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        DataError, match=f"{name} {reason}.*; give a grey PNG or JPEG file, or an uncompressed DICOM radiograph"
    ):
        load_image(tmp_path / name, pixels=16)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png does not exist; correct the path"):
        load_image(tmp_path / "gone.png", pixels=16)
    with pytest.raises(DataError, match=r"is a folder; name a file in it"):
        load_image(tmp_path, pixels=16)


def test_loading_an_image_says_nothing(tmp_path):
    write_image(tmp_path / "a.png", 3)
    code = "import sys; from pathlib import Path; from primia.data.preprocess import load_image; "
    command = [sys.executable, "-c", code + "load_image(Path(sys.argv[1]), pixels=16)", str(tmp_path / "a.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (said.stdout, said.stderr) == ("", "")
