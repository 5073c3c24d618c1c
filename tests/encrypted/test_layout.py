import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.encrypted.layout import Layout, laid_out, spread_layouts
from primia.encrypted.parameters import Packing

SLOTS = 256
sides = st.integers(1, 6)


@settings(deadline=None, max_examples=60)
@given(channels=st.integers(1, 20), height=sides, width=sides, patch=st.integers(1, 3))
def test_every_value_of_a_question_has_a_slot_of_its_own(channels: int, height: int, width: int, patch: int) -> None:
    stride = 1 << (height * width - 1).bit_length()
    packing = Packing(channels=channels, height=height * patch, width=width * patch, patch=patch, stride=stride)
    layout = Layout.of_packing(packing, SLOTS)
    assert layout.is_sound(SLOTS)
    assert layout.ciphertexts(SLOTS) == packing.ciphertexts(SLOTS)


def test_a_plane_holds_one_offset_of_all_patches() -> None:
    packing = Packing(channels=1, height=4, width=4, patch=2, stride=4)
    places = Layout.of_packing(packing, SLOTS).places().reshape(4, 4)
    assert places[0::2, 0::2].ravel().tolist() == [0, 1, 2, 3]
    assert places[1::2, 0::2].ravel().tolist() == [8, 9, 10, 11]


@settings(deadline=None, max_examples=60)
@given(
    channels=st.tuples(st.integers(1, 9), st.integers(1, 20)),
    side=st.integers(2, 9),
    steps=st.lists(st.integers(1, 3), min_size=1, max_size=3),
)
def test_layouts_after_strides_stay_sound(channels: tuple[int, int], side: int, steps: list[int]) -> None:
    stride = 1 << (side * side - 1).bit_length()
    packing = Packing(channels=channels[0], height=side, width=side, stride=stride)
    layouts = [Layout.of_packing(packing, SLOTS)]
    for step in steps:
        side = (side - 1) // step + 1
        found = spread_layouts(layouts[-1], (channels[1], side, side), (step, step), SLOTS)
        assert found
        assert all(layout.is_sound(SLOTS) and layout.values == channels[1] * side * side for layout in found)
        layouts.append(found[-1])


def test_shared_gaps_take_no_more_ciphertexts_than_the_grid_had() -> None:
    packing = Packing(channels=4, height=8, width=8, stride=64)
    before = Layout.of_packing(packing, SLOTS)
    apart, shared = spread_layouts(before, (16, 4, 4), (2, 2), SLOTS)[1:]
    assert (apart.ciphertexts(SLOTS), shared.ciphertexts(SLOTS)) == (4, 1)


def test_values_that_fill_a_part_of_the_slots_are_repeated() -> None:
    slots = laid_out(np.arange(1.0, 4.0)[None], Layout.folded((3, 1, 1)), 8)
    assert slots.tolist() == [[[1, 2, 3, 0, 1, 2, 3, 0]]]
