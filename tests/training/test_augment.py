import torch
from monai.data import get_track_meta

from primia.training.augment import augmentation, changed_copies


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
