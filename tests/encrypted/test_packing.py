import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.encrypted.packing import Floats, PackedMap, pack, padded, repeat
from primia.encrypted.parameters import SLOTS

lengths = st.integers(min_value=1, max_value=150)


def applied(packed: PackedMap, slots: Floats) -> Floats:
    """The engine's steps on plain slots; a rotation turns them to the left."""
    turned = [np.roll(slots, -step) for step in range(packed.baby)]
    total = np.zeros(SLOTS)
    for giant in range(packed.giant):
        inner = sum(packed.slots(giant, baby) * turned[baby] for baby in range(packed.baby))
        total += np.roll(inner, -giant * packed.baby)
    for step in packed.doublings:
        total = total + np.roll(total, -step)
    return total


@settings(deadline=None, max_examples=60)
@given(rows=lengths, columns=lengths, seed=st.integers(0, 2**32 - 1))
def test_a_packed_map_is_the_matrix_product_repeated_over_all_slots(rows: int, columns: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    matrix, vector = generator.normal(size=(rows, columns)), generator.normal(size=columns)
    result = applied(pack(matrix), repeat(vector, period=padded(columns)))
    np.testing.assert_allclose(result, repeat(matrix @ vector, period=padded(rows)), atol=1e-9)


@settings(deadline=None, max_examples=30)
@given(shape=st.tuples(lengths, lengths, lengths), seed=st.integers(0, 2**32 - 1))
def test_maps_follow_each_other_without_anything_between(shape: tuple[int, int, int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    first, second = generator.normal(size=shape[1::-1]), generator.normal(size=shape[:0:-1])
    vector = generator.normal(size=shape[0])
    packed = pack(first)
    after = pack(second, columns_padded=packed.rows_padded)
    result = applied(after, applied(packed, repeat(vector, period=packed.columns_padded)))
    np.testing.assert_allclose(result[: shape[2]], second @ first @ vector, atol=1e-8)


def test_the_default_first_layer_costs_64_products_and_18_rotations() -> None:
    packed = pack(np.ones((64, 784)))
    assert packed.diagonals.shape == (8, 8, 1024)
    assert packed.doublings == (64, 128, 256, 512)
    assert len(packed.rotations) == 7 + 7 + 4
