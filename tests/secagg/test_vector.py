import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.errors import FederationError
from primia.secagg.vector import SIGNED_WORD, UNSIGNED_WORD, Layout, Part, share_of_word

LAYOUT = Layout((Part("delta", 3, SIGNED_WORD, signed=True), Part("images", 1, UNSIGNED_WORD), Part("none", 0, 1)))


@given(
    delta=st.lists(st.integers(-SIGNED_WORD, SIGNED_WORD), min_size=3, max_size=3),
    images=st.integers(0, UNSIGNED_WORD),
)
def test_unpacking_returns_what_was_packed(delta, images):
    parts = LAYOUT.unpack(LAYOUT.pack({"delta": delta, "images": images, "none": []}))
    assert parts["delta"].tolist() == delta
    assert parts["images"].tolist() == [images]
    assert parts["none"].tolist() == []


def test_the_parts_lie_in_order_as_words_modulo_two_to_the_32():
    assert LAYOUT.pack({"delta": [-1, 0, 5], "images": 7, "none": []}).tolist() == [2**32 - 1, 0, 5, 7]


@pytest.mark.parametrize("images", [-1, share_of_word(3) + 1])
def test_a_count_that_could_overflow_the_sum_is_refused(images):
    layout = Layout((Part("images", 1, share_of_word(3)),))
    with pytest.raises(FederationError, match="images"):
        layout.pack({"images": images})
    assert 3 * share_of_word(3) <= UNSIGNED_WORD


def test_signed_sums_wrap_back_to_their_value():
    layout = Layout((Part("delta", 2, 100, signed=True),))
    total = layout.pack({"delta": [-100, 100]}) + layout.pack({"delta": [30, -30]}) + layout.pack({"delta": [-5, 5]})
    assert layout.unpack(total)["delta"].tolist() == [-75, 75]
    assert np.uint32 == total.dtype


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_a_part_of_either_width_becomes_the_same_words(dtype):
    delta = np.array([-SIGNED_WORD, -1, SIGNED_WORD], dtype=dtype)
    assert LAYOUT.pack({"delta": delta, "images": UNSIGNED_WORD, "none": []}).tolist() == [
        2**31 + 1,
        2**32 - 1,
        2**31 - 1,
        2**32 - 1,
    ]


def test_a_part_written_in_place_is_not_copied_but_checked():
    layout = Layout((Part("delta", 3, 10, signed=True), Part("images", 1, 5)))
    vector = layout.empty()
    layout.signed_part(vector, "delta")[:] = [-10, 0, 10]
    assert layout.pack({"images": 5}, into=vector) is vector
    assert vector.tolist() == [2**32 - 10, 0, 10, 5]
    layout.signed_part(vector, "delta")[1] = -11
    with pytest.raises(FederationError, match="delta"):
        layout.pack({"images": 5}, into=vector)
