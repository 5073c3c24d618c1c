import math

import numpy as np
import pytest
import torch

from primia.evaluation.surfaces import surface_distances


def ball(centre, radius, side=24):
    axes = torch.meshgrid(*[torch.arange(side)] * len(centre), indexing="ij")
    squares = sum((axis - middle) ** 2 for axis, middle in zip(axes, centre, strict=True))
    return (squares <= radius**2).to(torch.uint8)


def distances(predicted, truth, *, spacing=(1.0, 1.0, 1.0), tolerance=1.0, classes=2):
    return surface_distances(predicted, truth, classes=classes, spacing=spacing, tolerance=tolerance)


def test_equal_maps_are_no_distance_apart():
    hd95, overlap = distances(ball((12, 12, 12), 6), ball((12, 12, 12), 6))
    assert (hd95[0], overlap[0]) == (0.0, 1.0)


def test_a_shifted_ball_is_as_far_off_as_it_was_shifted_in_millimetres():
    hd95, overlap = distances(ball((12, 12, 12), 5), ball((15, 12, 12), 5), spacing=(2.0, 1.0, 1.0))
    assert 4.0 <= hd95[0] <= 6.0  # three voxels of 2 mm
    assert overlap[0] < 0.6
    assert distances(ball((12, 12, 12), 5), ball((15, 12, 12), 5), tolerance=4.0)[1][0] == 1.0


def test_a_voxel_that_is_far_off_moves_the_95th_percentile_little():
    wrong = ball((12, 12, 12), 6)
    wrong[0, 0, 0] = 1
    hd95, _ = distances(wrong, ball((12, 12, 12), 6))
    assert hd95[0] < 1.0  # and the largest distance is that of the voxel, 14.8


def test_pictures_have_surfaces_as_volumes_have():
    hd95, _ = distances(ball((12, 12), 5), ball((12, 14), 5), spacing=(1.0, 1.0))
    assert hd95[0] == pytest.approx(2.0)


def test_a_structure_that_is_missed_is_as_wrong_as_can_be_and_one_in_neither_map_says_nothing():
    empty = torch.zeros(24, 24, 24, dtype=torch.uint8)
    hd95, overlap = distances(empty, ball((12, 12, 12), 5), classes=3)
    assert hd95[0] == pytest.approx(24 * math.sqrt(3)) and overlap[0] == 0.0
    assert np.isnan(hd95[1]) and np.isnan(overlap[1])


def test_a_structure_at_the_border_has_a_surface_there():
    whole = torch.ones(8, 8, 8, dtype=torch.uint8)
    half = whole.clone()
    half[4:] = 0
    hd95, _ = distances(half, whole)
    assert hd95[0] == pytest.approx(4.0)
