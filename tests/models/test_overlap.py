import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.models.overlap import patient_dice


def test_dice_is_twice_the_overlap_over_both_sizes_counted_over_all_slices_of_a_patient():
    masks = torch.zeros(3, 2, 2, dtype=torch.uint8)
    predicted = torch.zeros(3, 2, 2, dtype=torch.uint8)
    masks[0, 0] = 1  # patient 7: two pixels in one slice, one in the other
    masks[1, 0, 0] = 1
    predicted[0, 0, 0] = 1  # one of them found, and one pixel too many in the other slice
    predicted[1, 1, 1] = 1
    masks[2] = predicted[2] = 2
    dice = patient_dice(predicted, masks, torch.tensor([7, 7, 9]), classes=3)
    assert dice[0, 0] == 2 * 1 / (3 + 2) and dice[1, 1] == 1.0
    assert dice[0, 1].isnan() and dice[1, 0].isnan()  # in neither map


def test_a_structure_that_is_missed_altogether_scores_nothing_and_one_in_neither_map_says_nothing():
    empty, full = torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4, dtype=torch.uint8)
    patient = torch.tensor([0])
    assert patient_dice(empty, full, patient, classes=2).item() == 0.0
    assert patient_dice(full, empty, patient, classes=2).item() == 0.0
    assert patient_dice(empty, empty, patient, classes=2).isnan().item()


@given(st.integers(0, 2**31), st.integers(2, 4))
@settings(deadline=None, max_examples=30)
def test_dice_is_symmetric_within_zero_and_one_and_ignores_the_order_of_slices(seed, classes):
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randint(0, classes, (6, 3, 5), generator=generator) for _ in range(2))
    patients = torch.randint(0, 3, (6,), generator=generator)
    dice = patient_dice(one, other, patients, classes=classes)
    assert torch.equal(dice.nan_to_num(2.0), patient_dice(other, one, patients, classes=classes).nan_to_num(2.0))
    assert bool((dice.isnan() | ((dice >= 0) & (dice <= 1))).all())
    order = torch.randperm(6, generator=generator)
    moved = patient_dice(one[order], other[order], patients[order], classes=classes)
    assert torch.equal(dice.nan_to_num(2.0), moved.nan_to_num(2.0))
