"""Distances between the surfaces of predicted and true structures, in three dimensions: HD95 and surface Dice (MONAI).

Overlap says little about a thin part that is missing; these say how far off the outline is.
"""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from primia.evaluation.metrics import Floats


def surface_distances(
    predicted: Tensor, truth: Tensor, *, classes: int, spacing: Sequence[float], tolerance: float
) -> tuple[Floats, Floats]:
    """95th percentile of the Hausdorff distance and normalised surface Dice of every structure of one image or volume.

    Args:
        predicted: (*spatial) integers below `classes`, two or three axes.
        truth: like `predicted`.
        classes: how many there are; class 0 is the background, which is not judged.
        spacing: of the pixels along each axis.
        tolerance: within which a surface counts as right, in the unit of `spacing`. As Nikolov et al. 2021, but that
            voxels of the surfaces are counted, not their area.

    Returns:
        HD95 in the unit of `spacing` and surface Dice in [0, 1], each (classes - 1,). A structure in neither map has
        NaN; one in a single map is as wrong as can be: the diagonal of the image, and 0.
    """
    # Importing MONAI takes seconds.
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    assert predicted.shape == truth.shape and len(spacing) == predicted.ndim
    diagonal = math.dist([0.0] * len(spacing), [step * n for step, n in zip(spacing, truth.shape, strict=True)])
    distances, overlaps = np.full(classes - 1, np.nan), np.full(classes - 1, np.nan)
    for structure in range(1, classes):
        said, true = predicted == structure, truth == structure
        if not (said.any() or true.any()):
            continue
        if not (said.any() and true.any()):
            distances[structure - 1], overlaps[structure - 1] = diagonal, 0.0
            continue
        pair = [_cut_out(each, said | true)[None, None].float() for each in (said, true)]
        with warnings.catch_warnings():  # MONAI warns of an argument that it gives itself
            warnings.simplefilter("ignore", FutureWarning)
            distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing))
            overlap = compute_surface_dice(*pair, [tolerance], include_background=True, spacing=list(spacing))
        distances[structure - 1], overlaps[structure - 1] = float(distance), float(overlap)
    return distances, overlaps


def _cut_out(mask: Tensor, region: Tensor) -> Tensor:
    """The box around `region` with a rim of one pixel, so that a surface at the border of the image is one, too."""
    mask, region = (torch.nn.functional.pad(each, (1, 1) * each.ndim) for each in (mask, region))
    places = torch.nonzero(region)
    for axis, (first, last) in enumerate(zip(places.amin(dim=0).tolist(), places.amax(dim=0).tolist(), strict=True)):
        mask = mask.narrow(axis, first - 1, last - first + 3)
    return mask
