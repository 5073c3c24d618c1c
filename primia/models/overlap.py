"""How far predicted class maps agree with masks: hard Dice of every patient, over all slices of the patient."""

import torch
from torch import Tensor


def patient_dice(predicted: Tensor, masks: Tensor, patients: Tensor, *, classes: int) -> Tensor:
    """Dice coefficient 2·|P ∩ M| / (|P| + |M|) of every patient and structure (Dice 1945), in three dimensions.

    All images of a patient are counted together, so that a slice without the structure neither helps nor harms.

    Args:
        predicted: (images, *spatial) integers below `classes`.
        masks: the truth, like `predicted`.
        patients: (images,) int64, equal for images of one patient.
        classes: how many there are; class 0 is the background, which is not judged.

    Returns:
        (patients, classes - 1) float64 in [0, 1], patients in the order of their numbers; NaN where the structure is
        in neither map, which says nothing about a model.
    """
    assert predicted.shape == masks.shape and len(patients) == len(masks) and classes >= 2
    _, place = torch.unique(patients, return_inverse=True)
    shared, either = counts(predicted, masks, classes=classes)
    people = int(place.max()) + 1 if len(place) else 0
    shared = torch.zeros(people, classes - 1, dtype=torch.float64).index_add_(0, place, shared)
    either = torch.zeros(people, classes - 1, dtype=torch.float64).index_add_(0, place, either)
    return 2 * shared / either


def counts(predicted: Tensor, masks: Tensor, *, classes: int) -> tuple[Tensor, Tensor]:
    """|P ∩ M| and |P| + |M| of every image and structure, each (images, classes - 1) float64."""
    shared, either = [], []
    for structure in range(1, classes):
        said, true = (predicted == structure).flatten(1), (masks == structure).flatten(1)
        shared.append((said & true).sum(dim=1))
        either.append(said.sum(dim=1) + true.sum(dim=1))
    return torch.stack(shared, dim=1).double(), torch.stack(either, dim=1).double()
