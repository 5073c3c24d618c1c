"""An attacker who never sees the model: if images alone tell members from others, their split is shifted."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Floats = NDArray[np.float64]

SHUFFLES = 999  # of who is a member: the smallest p-value is one in a thousand

_SIDE = 8  # pixels of an image's thumbnail
_GREYS = 16  # levels of its histogram
_FOLDS = 5
_RIDGE = 0.1  # per patient, against features of variance 1


def describe(images: Tensor, labels: Tensor, patients: Tensor, *, classes: int) -> Floats:
    """A few features of each patient: thumbnail, histogram, shares of the classes, and how many images there are.

    Args:
        images: (images, 1, *shape) in [0, 1]; a volume counts by its mean along the last axis.
        labels: (images,) or (images, *shape) int64.
        patients: (images,) int64.
        classes: how many there are.

    Returns:
        (patients, features), in the order of the patients' numbers.
    """
    flat = images.float() if images.ndim == 4 else images.float().mean(dim=-1)
    thumbnails = functional.adaptive_avg_pool2d(flat, _SIDE).flatten(1)
    grey = (images.float() * _GREYS).long().clamp(0, _GREYS - 1).flatten(1)
    histogram = torch.stack([torch.bincount(each, minlength=_GREYS) for each in grey]) / grey.shape[1]
    of_class = [(labels == number).view(len(labels), -1).float().mean(1) for number in range(classes)]
    shares = torch.stack(of_class, dim=1)
    features = torch.cat([thumbnails, histogram, shares], dim=1).double()
    occurring, place, count = torch.unique(patients, return_inverse=True, return_counts=True)
    sums = torch.zeros(len(occurring), features.shape[1], dtype=torch.float64).index_add_(0, place, features)
    return torch.cat([sums / count[:, None], count[:, None]], dim=1).numpy()


def blind_attack(members: Floats, others: Floats, *, generator: torch.Generator) -> tuple[float, float]:
    """How well a linear classifier tells members from others of whom it has not learned.

    Args:
        members: (members, features) of patients.
        others: (others, features).
        generator: of the folds, and of the shuffles.

    Returns:
        Cross-validated area under the curve, and the exact p-value of one as large if membership were dealt at random:
        the share of shuffled memberships, itself included, that are learned as well.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.preprocessing import StandardScaler

    features = StandardScaler().fit_transform(np.concatenate([members, others]))
    truth = np.repeat([1.0, 0.0], [len(members), len(others)])
    order = torch.randperm(len(truth), generator=generator).numpy()
    shuffled = [truth[torch.randperm(len(truth), generator=generator).numpy()] for _ in range(SHUFFLES)]
    memberships = np.stack([truth, *shuffled], axis=1)[order]
    scores = cross_val_predict(Ridge(alpha=_RIDGE * len(truth)), features[order], memberships, cv=KFold(_FOLDS))
    areas = _areas(scores, memberships)
    return float(areas[0]), float((areas >= areas[0]).mean())


def _areas(scores: Floats, memberships: Floats) -> Floats:
    """Area under the curve of each column."""
    from scipy.stats import rankdata

    members = memberships.sum(axis=0)
    others = len(memberships) - members
    ranks: Floats = (rankdata(scores, axis=0) * memberships).sum(axis=0)
    areas: Floats = (ranks - members * (members + 1) / 2) / (members * others)
    return areas
