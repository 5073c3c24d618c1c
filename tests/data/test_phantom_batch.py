"""Phantoms as a batch go through the same preprocessing as files."""

from pathlib import Path

import torch
from PIL import Image

from primia.data.phantom import generate_phantoms
from primia.data.phantom_set import masked_phantoms, phantom_images
from primia.data.preprocess import load_image


def test_a_batch_holds_one_preprocessed_image_of_each_patient(tmp_path: Path) -> None:
    batch = phantom_images(patients=4, pixels=32, hospitals=("north", "hill"), seed=5)
    assert batch.shape == (4, 1, 32, 32)
    assert batch.dtype == torch.float16
    first = next(iter(generate_phantoms(patients=4, pixels=48, hospitals=("north", "hill"), seed=5)))
    Image.fromarray(first.pixels).save(tmp_path / "first.png")
    assert torch.equal(batch[0], load_image(tmp_path / "first.png", pixels=32))


def test_phantoms_with_masks_are_the_same_images_and_the_lungs_are_darker() -> None:
    about = {"patients": 4, "pixels": 32, "hospitals": ("north", "hill"), "seed": 5}
    images, masks = masked_phantoms(**about)
    assert torch.equal(images, phantom_images(**about))
    assert masks.shape == (4, 32, 32) and masks.dtype == torch.uint8 and masks.unique().tolist() == [0, 1]
    for image, mask in zip(images[:, 0].float(), masks, strict=True):
        assert 0.05 < mask.float().mean() < 0.6
        rim = torch.nn.functional.max_pool2d(mask[None, None].float(), 5, 1, 2)[0, 0].bool() & ~mask.bool()
        assert image[mask.bool()].mean() < image[rim].mean()
