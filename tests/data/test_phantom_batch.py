"""Phantoms as a batch go through the same preprocessing as files."""

from pathlib import Path

import torch
from PIL import Image

from primia.data.phantom import generate_phantoms
from primia.data.phantom_set import phantom_images
from primia.data.preprocess import load_image


def test_a_batch_holds_one_preprocessed_image_of_each_patient(tmp_path: Path) -> None:
    batch = phantom_images(patients=4, pixels=32, hospitals=("north", "hill"), seed=5)
    assert batch.shape == (4, 1, 32, 32)
    assert batch.dtype == torch.float16
    first = next(iter(generate_phantoms(patients=4, pixels=48, hospitals=("north", "hill"), seed=5)))
    Image.fromarray(first.pixels).save(tmp_path / "first.png")
    assert torch.equal(batch[0], load_image(tmp_path / "first.png", pixels=32))
