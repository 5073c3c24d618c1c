import pytest
import torch
from monai.data import get_track_meta

from primia.training.augment import augmentation, augmentation_with_masks, changed, changed_copies


def test_an_image_is_moved_a_little_and_each_in_its_own_way():
    images = torch.zeros(200, 1, 64, 64)
    images[:, :, 30:34, 30:34] = 1.0
    moved = augmentation(pixels=64, seed=4)(images)
    weight = (moved - moved.amin(dim=(2, 3), keepdim=True)).squeeze(1)
    total = weight.sum(dim=(1, 2))
    axis = torch.arange(64.0)
    centres = torch.stack([(weight.sum(dim=2) @ axis) / total, (weight.sum(dim=1) @ axis) / total])
    offset = centres - 31.5
    assert offset.abs().max() < 0.05 * 64 * 1.1 + 0.5, "no shift beyond 5 % of the side"
    assert (offset.std(dim=1) > 1.0).all()
    assert (offset.mean(dim=1).abs() < 0.5).all()
    assert moved.flatten(1).std(dim=0).max() > 0.1


def test_exposure_changes_by_a_tenth_at_most():
    flat = augmentation(pixels=16, seed=4)(torch.ones(200, 1, 16, 16))
    assert torch.allclose(flat, flat[:, :, :1, :1].expand_as(flat)), "the border is repeated, so no edge comes in"
    assert 0.8 <= flat.min() < 0.9
    assert 1.1 < flat.max() <= 1.2


def test_a_seed_repeats_the_whole_sequence():
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second, other = (
        augmentation(pixels=16, seed=4),
        augmentation(pixels=16, seed=4),
        augmentation(pixels=16, seed=5),
    )
    one, two = first(images), first(images)
    torch.manual_seed(99)
    assert torch.equal(second(images), one)
    assert torch.equal(second(images), two)
    assert not torch.equal(one, two)
    assert not torch.equal(other(images), one)


def test_images_are_never_mirrored():
    images = torch.zeros(300, 1, 32, 32)
    images[:, :, :, :10] = 1.0
    moved = augmentation(pixels=32, seed=0)(images)
    assert (moved[..., :6].mean(dim=(1, 2, 3)) > moved[..., -6:].mean(dim=(1, 2, 3)) + 0.5).all()


def test_it_gives_plain_tensors_and_leaves_monai_as_it_was():
    moved = augmentation(pixels=16, seed=0)(torch.zeros(2, 1, 16, 16))
    assert type(moved) is torch.Tensor
    assert moved.dtype == torch.float32
    assert get_track_meta()


def test_changed_copies_are_images_again_and_each_copy_is_another_one():
    images = torch.rand(150, 1, 16, 16, generator=torch.Generator().manual_seed(0)).half()  # more than one batch
    copies = changed_copies(images, mean=0.5, std=0.3, seed=4)
    assert copies.shape == (450, 1, 16, 16)
    assert copies.dtype == torch.float16
    assert 0.0 <= copies.min() < copies.max() <= 1.0
    assert (copies.view(3, 150, -1) - images.flatten(1)).abs().mean() > 0.05
    assert not torch.equal(copies[:150], copies[150:300])
    assert torch.equal(changed_copies(images, mean=0.5, std=0.3, seed=4), copies)


def test_a_copy_is_changed_as_a_standardised_image_is():
    images = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    copies = changed_copies(images, mean=0.5, std=0.3, seed=4)
    expected = augmentation(pixels=16, seed=4)((images - 0.5) / 0.3) * 0.3 + 0.5
    assert torch.equal(copies[:5], expected.clamp(0.0, 1.0).half())


def boxes(*sides, n=60):
    """A box of one class in each image, as bright as it is large, and its mask."""
    masks = torch.zeros(n, *sides, dtype=torch.uint8)
    masks[(slice(None), *(slice(side // 4, side // 2 + 1) for side in sides))] = 2
    return masks[:, None].float(), masks


@pytest.mark.parametrize("sides", [(32, 32), (32, 32, 16)])
def test_a_mask_moves_with_its_image_and_keeps_whole_classes(sides):
    images, masks = boxes(*sides)
    moved, followed = augmentation_with_masks(sides=sides, seed=3)(images, masks)
    assert moved.shape == images.shape
    assert followed.shape == masks.shape
    assert (followed.dtype, type(followed), type(moved)) == (torch.uint8, torch.Tensor, torch.Tensor)
    assert set(followed.unique().tolist()) == {0, 2}
    assert (followed != masks).flatten(1).any(dim=1).float().mean() > 0.9, "each is moved"
    # Nearest and linear interpolation agree wherever the image is not at a border of the box.
    spread = moved.flatten(1) - moved.flatten(1).amin(dim=1, keepdim=True)
    inside = spread > 0.5 * spread.amax(dim=1, keepdim=True)
    assert (inside == (followed.flatten(1) == 2)).float().mean() > 0.99
    assert get_track_meta()


def test_volumes_are_turned_about_their_last_axis_only():
    images, masks = boxes(32, 32, 16)
    columns = torch.zeros_like(masks)
    columns[:, 8:24, 14:18] = 1  # the same in every slice
    _, followed = augmentation_with_masks(sides=(32, 32, 16), seed=3)(images, columns)
    assert (followed == followed[..., :1]).all()
    assert (followed[..., 0] != columns[..., 0]).flatten(1).any(dim=1).float().mean() > 0.9


def test_images_and_masks_change_the_same_way_again_with_the_same_seed():
    images, masks = boxes(16, 16, n=4)
    first, second = augmentation_with_masks(sides=(16, 16), seed=4), augmentation_with_masks(sides=(16, 16), seed=4)
    once, twice = first(images, masks), first(images, masks)
    assert all(torch.equal(a, b) for a, b in zip(once, second(images, masks), strict=True))
    assert not torch.equal(once[0], twice[0])


def test_a_diagnosis_does_not_move():
    rows, labels = torch.zeros(3, 1, 4, 4), torch.arange(3)
    same = changed(None, rows, labels)
    assert same[0] is rows
    assert same[1] is labels
    moved, kept = changed(lambda images: images + 1, rows, labels)
    assert (moved == 1).all()
    assert kept is labels
