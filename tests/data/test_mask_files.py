"""The values of a mask file mean what params.yaml says, and an image and its mask lie in the same place."""

import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nifti_files import affine, structures

from primia.data.decoding import RefusedFileError
from primia.data.masks import check_pair, meaning_of, shrink_mask, to_classes

CLASSES = ("background", "liver", "spleen")


def test_without_label_values_a_value_is_the_position_of_its_class():
    assert meaning_of(CLASSES) == {"background": (0,), "liver": (1,), "spleen": (2,)}


def test_zero_is_the_first_class_unless_it_is_given_to_another():
    told = {"liver": (1, 2), "spleen": (7,)}
    assert meaning_of(CLASSES, told) == {"background": (0,), **told}
    assert meaning_of(CLASSES, {**told, "background": (5,)}) == {"background": (0, 5), **told}
    elsewhere = {"background": (9,), "liver": (0,), "spleen": (1,)}
    assert meaning_of(CLASSES, elsewhere) == elsewhere
    assert list(meaning_of(CLASSES, elsewhere)) == list(CLASSES)


@given(st.lists(st.sampled_from([0, 1, 2, 7]), min_size=1, max_size=30))
def test_every_value_becomes_its_class(values):
    meaning = meaning_of(CLASSES, {"liver": (1, 2), "spleen": (7,)})
    expected = [{0: 0, 1: 1, 2: 1, 7: 2}[value] for value in values]
    for kind in (np.uint8, np.int16, np.float32):
        classes = to_classes(np.array(values, kind), meaning)
        assert classes.dtype == np.uint8 and classes.tolist() == expected


def test_a_value_of_no_class_and_a_broken_one_are_refused():
    with pytest.raises(RefusedFileError, match=r"the value 3, which is no class; .* allow 0, 1, 2"):
        to_classes(np.array([[0, 3], [1, 2]]), meaning_of(CLASSES))
    with pytest.raises(RefusedFileError, match=r"the value -1, which is no class"):
        to_classes(np.array([-1.0]), meaning_of(CLASSES))
    with pytest.raises(RefusedFileError, match=r"the value 0\.5, which is no whole number"):
        to_classes(np.array([0, 0.5], np.float32), meaning_of(CLASSES))


def pair(where: np.ndarray, *, shape=(18, 22, 14)) -> tuple[nibabel.Nifti1Image, nibabel.Nifti1Image]:
    return nibabel.Nifti1Image(structures(), affine()), nibabel.Nifti1Image(structures(shape), where)


def test_an_image_and_a_mask_of_the_same_place_belong_together():
    check_pair(*pair(affine()))
    check_pair(*pair(affine(origin=(-40.001, 25.5, 310.0))))  # digits that a file rounds


@pytest.mark.parametrize(
    "where",
    [affine(origin=(-40, 25.5, 309)), affine(directions=(-1, 1, 1)), affine(spacing=(1, 1, 1.1)), affine(tilt=0.05)],
)
def test_a_mask_that_lies_elsewhere_is_refused_and_says_how_far(where):
    with pytest.raises(RefusedFileError, match=r"has a mask that lies elsewhere \(a corner is [0-9.]+ mm"):
        check_pair(*pair(where))


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(RefusedFileError, match="has 18 x 22 x 14 voxels, but its mask 18 x 22 x 15"):
        check_pair(*pair(affine(), shape=(18, 22, 15)))


def test_the_mask_of_a_picture_shrinks_to_the_nearest_pixels():
    mask = np.kron(np.array([[0, 1], [2, 0]], np.uint8), np.ones((6, 9), np.uint8))
    assert torch.equal(shrink_mask(mask, pixels=2), torch.tensor([[0, 1], [2, 0]], dtype=torch.uint8))
