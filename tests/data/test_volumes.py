"""A volume becomes what a network sees in one way, and a mask comes back to the very voxels of the volume."""

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nifti_files import SHAPE, affine, intensities, structures

from primia.config import Volume
from primia.data.volumes import from_images, place, prepare, prepare_mask, restore, to_images
from primia.errors import DataError

ISOTROPIC = Volume(spacing=(1.0, 1.0, 1.0))

orders = st.permutations([0, 1, 2])
directions = st.lists(st.sampled_from([1, -1]), min_size=3, max_size=3)
spacings = st.lists(st.floats(0.4, 3.0), min_size=3, max_size=3)
tilts = st.floats(-0.6, 0.6)  # radians about two axes
shapes = st.tuples(*[st.integers(36, 56)] * 3)


def canonical_spacing(image: nibabel.Nifti1Image) -> list[float]:
    return [float(size) for size in nibabel.affines.voxel_sizes(nibabel.as_closest_canonical(image).affine)]


@given(orders, directions, spacings, tilts, shapes, st.floats(0.5, 1.3))
def test_a_mask_that_was_prepared_and_restored_covers_the_original(order, direction, spacing, tilt, shape, coarser):
    mask = structures(shape)
    image = nibabel.Nifti1Image(
        mask, affine(order=order, directions=direction, spacing=spacing, tilt=tilt), dtype=np.uint8
    )
    settings = Volume(spacing=tuple(length * coarser for length in canonical_spacing(image)))
    placement = place(image, settings, pixels=128)
    prepared, lost = prepare_mask(mask, placement, structures=2)
    assert prepared.shape == (128, 128, placement.resampled[2])
    assert min(lost.voxels) > 0 and lost.outside == (0, 0)
    restored = restore(prepared, placement)
    assert restored.shape == shape and restored.dtype == np.uint8
    both = np.count_nonzero((restored > 0) & (mask > 0))
    assert 2 * both / (np.count_nonzero(restored) + np.count_nonzero(mask)) > 0.95
    if coarser <= 1.0:
        assert np.array_equal(restored, mask)


@given(orders, directions, spacings, tilts, st.integers(16, 70), st.none() | st.integers(8, 70))
def test_a_mask_comes_back_exactly_where_the_spacing_stays(order, direction, spacing, tilt, pixels, depth):
    mask = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    image = nibabel.Nifti1Image(mask, affine(order=order, directions=direction, spacing=spacing, tilt=tilt))
    settings = Volume(spacing=tuple(canonical_spacing(image)), depth=depth)
    placement = place(image, settings, pixels=pixels)
    prepared, lost = prepare_mask(mask, placement, structures=2)
    restored = restore(prepared, placement)
    kept = restored > 0
    assert np.array_equal(restored[kept], mask[kept])  # nothing moves
    for number, (voxels, outside) in enumerate(zip(lost.voxels, lost.outside, strict=True), start=1):
        assert np.count_nonzero(mask == number) == voxels and voxels - outside == np.count_nonzero(restored == number)
    if pixels >= 22 and (depth is None or depth >= 22):
        assert np.array_equal(restored, mask)


@given(orders, directions)
def test_the_axes_of_an_image_run_to_the_right_to_the_front_and_upwards(order, direction):
    where = affine(order=order, directions=direction, spacing=(0.8, 1.1, 1.3))
    shape = (20, 17, 23)
    voxels = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], axis=-1)
    for axis in range(3):  # a volume whose intensity is the place along one axis
        image = nibabel.Nifti1Image((voxels @ where.T)[..., axis].astype(np.float32), where)
        low, high = float(image.get_fdata().min()), float(image.get_fdata().max())
        settings = Volume(spacing=tuple(canonical_spacing(image)), window=(low, high))
        lengths = nibabel.as_closest_canonical(image).shape
        seen, placement = prepare(image, settings, pixels=24)
        assert seen.shape == (1, 24, 24, lengths[2]) and placement.upright == lengths
        cut = [(24 - lengths[0]) // 2, (24 - lengths[1]) // 2]
        inner = seen[0, cut[0] : cut[0] + lengths[0], cut[1] : cut[1] + lengths[1]].float().movedim(axis, 0)
        assert torch.allclose(inner.flatten(1).mean(1), torch.linspace(0, 1, lengths[axis]), atol=1e-3)
        assert float(inner.flatten(1).std(1).max()) < 1e-3


def test_resampling_keeps_a_ramp_a_ramp_over_the_same_extent():
    ramp = np.broadcast_to(np.linspace(0, 1, 40, dtype=np.float32)[:, None, None], (40, 20, 20))
    image = nibabel.Nifti1Image(ramp, affine(spacing=(0.5, 1.0, 1.0)))
    seen, placement = prepare(image, Volume(spacing=(1.0, 1.0, 1.0), window=(0.0, 1.0)), pixels=20)
    assert placement.resampled == (20, 20, 20)
    middles = torch.from_numpy(ramp[:, 0, 0].copy()).view(20, 2).mean(1)
    assert torch.allclose(seen[0, :, 3, 3].float(), middles, atol=1e-3)


def test_image_and_mask_are_moved_alike():
    mask = structures()
    image = nibabel.Nifti1Image(mask.astype(np.float32), affine(order=(1, 2, 0), directions=(1, -1, 1)))
    seen, placement = prepare(image, Volume(spacing=(1.0, 1.0, 1.0), window=(0.0, 2.0), depth=16), pixels=32)
    answer, _ = prepare_mask(mask, placement, structures=2)
    assert seen.shape == (1, 32, 32, 16) and answer.dtype == torch.uint8
    assert torch.equal((seen[0] * 2).to(torch.uint8), answer)


def test_intensities_are_scaled_by_the_window_or_by_each_volumes_own_percentiles():
    values = np.linspace(-1000, 1000, 20**3, dtype=np.float32).reshape(20, 20, 20)
    image = nibabel.Nifti1Image(values, np.eye(4))
    windowed, _ = prepare(image, Volume(spacing=(1.0, 1.0, 1.0), window=(-150, 200)), pixels=20)
    assert windowed.dtype == torch.float16
    assert np.allclose(windowed[0].numpy(), ((values + 150) / 350).clip(0, 1), atol=1e-3)
    own, _ = prepare(image, ISOTROPIC, pixels=20)
    assert np.allclose(own[0].numpy(), ((values + 990) / 1980).clip(0, 1), atol=1e-3)
    outlier = values.copy()
    outlier[3, 3, 3] = 1.7e6
    changed, _ = prepare(nibabel.Nifti1Image(outlier, np.eye(4)), ISOTROPIC, pixels=20)
    assert float(changed[0, 3, 3, 3]) == 1.0
    changed[0, 3, 3, 3] = own[0, 3, 3, 3]
    assert float((changed - own).abs().max()) < 2e-3


def test_a_volume_of_one_value_is_black():
    seen, _ = prepare(nibabel.Nifti1Image(np.full(SHAPE, 7.0, np.float32), np.eye(4)), ISOTROPIC, pixels=32)
    assert torch.equal(seen, torch.zeros_like(seen))


def test_what_lies_outside_of_the_images_is_counted_for_each_structure():
    mask = np.zeros((30, 30, 10), np.uint8)
    mask[0:2] = 1  # the left rim
    mask[14:16] = 2
    placement = place(nibabel.Nifti1Image(mask, np.eye(4)), ISOTROPIC, pixels=26)
    prepared, lost = prepare_mask(mask, placement, structures=3)
    assert (lost.voxels, lost.outside) == ((600, 600, 0), (600, 2 * 4 * 10, 0))
    assert lost.shares == [1.0, 80 / 600, 0.0] and lost.entirely == [True, False, False]
    assert np.count_nonzero(restore(prepared, placement)) == 520 == int((prepared > 0).sum())


def test_a_structure_that_falls_between_the_voxels_keeps_one_of_them():
    mask = np.zeros((30, 30, 10), np.uint8)
    mask[9, 9, 3] = 2  # the voxels of 3 mm are read at 1, 4, 7, 10 and so on
    placement = place(nibabel.Nifti1Image(mask, np.eye(4)), Volume(spacing=(3.0, 3.0, 3.0)), pixels=16)
    prepared, lost = prepare_mask(mask, placement, structures=2)
    assert (lost.voxels, lost.outside) == ((0, 1), (0, 0))
    assert torch.nonzero(prepared).tolist() == [[3 + 3, 3 + 3, 1]] and prepared.max() == 2  # of 10, padded to 16
    assert torch.equal(prepare_mask(mask, placement, structures=2)[0], prepared) and mask.sum() == 2


def test_small_structures_keep_voxels_of_their_own_where_they_are():
    mask = np.zeros((30, 30, 10), np.uint8)
    settings = Volume(spacing=(3.0, 3.0, 3.0))
    placement = place(nibabel.Nifti1Image(mask, np.eye(4)), settings, pixels=10)

    def prepared(**at):
        for number, where in at.items():
            for voxel in where:
                mask[voxel] = int(number[-1])
        found, lost = prepare_mask(mask, placement, structures=2)
        mask[:] = 0
        return {number: torch.nonzero(found == number).tolist() for number in (1, 2)}, lost

    # On either side of the body, where only one side was read in neither: the side with more of it.
    both, lost = prepared(c1=[(0, 3, 3), (27, 3, 3), (27, 3, 5)])
    assert both[1] == [[9, 1, 1]] and lost.outside == (0, 0)
    # Two in one coarse voxel: one of them is lost, and counted.
    both, lost = prepared(c1=[(9, 9, 3)], c2=[(11, 11, 5)])
    assert (both[1], both[2]) == ([[3, 3, 1]], []) and (lost.voxels, lost.outside) == ((1, 1), (0, 1))
    assert lost.entirely == [False, True]
    # The last voxel of another structure is not taken.
    both, lost = prepared(c1=[(10, 10, 4)], c2=[(9, 9, 3), (9, 9, 8)])
    assert both == {1: [[3, 3, 1]], 2: [[3, 3, 2]]}


def test_slices_and_volumes_become_images_and_come_back():
    volume = torch.arange(1 * 4 * 4 * 3).view(1, 4, 4, 3)
    flat, deep = ISOTROPIC, Volume(spacing=(1.0, 1.0, 1.0), depth=8)
    assert torch.equal(to_images(volume, flat)[2], volume[..., 2])
    assert to_images(volume, flat).shape == (3, 1, 4, 4) and to_images(volume, deep).shape == (1, 1, 4, 4, 3)
    for settings in (flat, deep):
        assert torch.equal(from_images(to_images(volume, settings), settings), volume)
        assert torch.equal(from_images(to_images(volume[0], settings), settings), volume[0])


def test_a_spacing_that_would_blow_a_volume_up_is_refused():
    image = nibabel.Nifti1Image(intensities(structures(), seed=1), affine(spacing=(90.0, 90.0, 90.0)))
    with pytest.raises(DataError, match=r"18 x 22 x 14 voxels of 90.0 x .* give a larger spacing, or correct"):
        prepare(image, Volume(spacing=(0.1, 0.1, 0.1)), pixels=64)
