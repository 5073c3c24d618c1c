import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array, random_array

from primia.encrypted.layout import Floats, Layout, laid_out, spread_layouts
from primia.encrypted.packing import PackedMap, pack
from primia.encrypted.parameters import Packing

SLOTS = 128  # a small ciphertext, so that few values need several
powers = st.integers(0, 7).map(lambda power: 1 << power)


def applied(packed: PackedMap, values: Floats, results: int) -> Floats:
    """The engine's steps on plain slots (ciphertexts, SLOTS); a rotation turns them to the left."""
    found = packed.diagonals
    out = np.zeros((results, SLOTS))
    for index in range(found.count):
        turned = np.roll(values[found.source[index]], -packed.steps.baby[index])
        out[found.to[index]] += np.roll(packed.weights(index) * turned, -packed.steps.giant[index])
    for step in found.doublings:
        out = out + np.roll(out, -step, axis=1)
    return out


def flat(count: int) -> Layout:
    return Layout.of_packing(Packing(channels=1, height=1, width=count), SLOTS)


@settings(deadline=None, max_examples=80)
@given(rows=st.integers(1, 128), columns=st.integers(1, 500), baby=powers, seed=st.integers(0, 2**32 - 1))
def test_a_folded_map_is_the_matrix_product_from_any_number_of_ciphertexts(
    rows: int, columns: int, baby: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    matrix, vector = generator.normal(size=(rows, columns)), generator.normal(size=columns)
    before, after = flat(columns), Layout.folded((rows, 1, 1))
    for over_all in (False, True):
        packed = pack(csr_array(matrix), before, after, kind="folded", baby=baby, slots=SLOTS, over_all=over_all)
        result = applied(packed, laid_out(vector[None], before, SLOTS)[0], 1)
        np.testing.assert_allclose(result, laid_out((matrix @ vector)[None], after, SLOTS)[0], atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    side=st.sampled_from([4, 6, 8]),
    patch=st.sampled_from([1, 2]),
    steps=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    baby=powers,
    seed=st.integers(0, 2**32 - 1),
)
def test_spread_maps_follow_each_other_in_every_layout(
    channels: tuple[int, int], side: int, patch: int, steps: tuple[int, int], baby: int, seed: int
) -> None:
    stride = 1 << (side * side // patch**2 - 1).bit_length()
    packing = Packing(channels=channels[0], height=side, width=side, patch=patch, stride=stride)
    generator = np.random.default_rng(seed)
    before = Layout.of_packing(packing, SLOTS)
    vector = generator.normal(size=before.values)
    slots = laid_out(vector[None], before, SLOTS)[0]
    for step in steps:
        side = (side - 1) // step + 1
        layouts = spread_layouts(before, (channels[1], side, side), (step, step), SLOTS)
        after = layouts[seed % len(layouts)]
        matrix = csr_array(random_array((after.values, before.values), density=0.05, rng=generator))
        packed = pack(matrix, before, after, kind="spread", baby=baby, slots=SLOTS)
        slots = applied(packed, slots, after.ciphertexts(SLOTS))
        vector = matrix @ vector
        np.testing.assert_allclose(slots, laid_out(vector[None], after, SLOTS)[0], atol=1e-9)
        before = after


def test_copies_that_differ_are_averaged_when_folded_over_all_slots() -> None:
    generator = np.random.default_rng(0)
    matrix, copies = generator.normal(size=(3, 30)), generator.normal(size=(4, 30))
    before, after = flat(30), Layout.folded((3, 1, 1))
    packed = pack(csr_array(matrix), before, after, kind="folded", baby=2, slots=SLOTS, over_all=True)
    slots = np.pad(copies, ((0, 0), (0, 2))).reshape(1, SLOTS)
    expected = np.append(matrix @ copies.mean(axis=0), 0.0)
    np.testing.assert_allclose(applied(packed, slots, 1), np.tile(expected, SLOTS // 4)[None], atol=1e-9)


@pytest.mark.parametrize("over_all", [False, True])
def test_slots_without_a_value_are_never_looked_at(over_all) -> None:
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(3, 30))
    before, after = flat(30), Layout.folded((3, 1, 1))
    packed = pack(csr_array(matrix), before, after, kind="folded", baby=2, slots=SLOTS, over_all=over_all)
    padding = 1.0 - laid_out(np.ones((1, 30)), before, SLOTS)[0]
    assert padding.sum() == 8
    assert not applied(packed, padding, 1).any()


def test_the_default_first_layer_costs_64_products_and_18_rotations() -> None:
    packed = pack(
        csr_array(np.ones((64, 784))), Layout.of_packing(Packing(channels=1, height=28, width=28), 4096),
        Layout.folded((64, 1, 1)), kind="folded", baby=8, slots=4096,
    )  # fmt: skip
    assert packed.diagonals.count == 64
    assert packed.diagonals.doublings == (64, 128, 256, 512)
    assert packed.rotations == 7 + 7 + 4
