"""What local training aims at, and how fast: class weights and the learning rate of a round."""

import math
from collections.abc import Sequence
from typing import Literal


def balanced_weights(counts: Sequence[int]) -> tuple[float, ...]:
    """Weights with which every class that occurs counts the same (King & Zeng 2001; scikit-learn's `balanced`).

    Args:
        counts: images per class over all hospitals, as the secure sum gives them; not all zero.

    Returns:
        One weight per class: images / (classes that occur x images of the class), so that the mean over all images is
        1 and a learning rate keeps its meaning. A class without images has weight 0.
    """
    assert min(counts) >= 0 < sum(counts)
    occurring = sum(count > 0 for count in counts)
    return tuple(sum(counts) / (occurring * count) if count else 0.0 for count in counts)


def learning_rate_of(base: float, schedule: Literal["constant", "cosine"], *, round: int, rounds: int) -> float:
    """Local learning rate in a round; it depends on nothing else, so a restarted site goes on where it was.

    Args:
        base: learning rate of the first round.
        schedule: `cosine` falls along half a cosine towards zero (Loshchilov & Hutter 2017, equation 5, one period).
        round: counted from 1 to `rounds`.
        rounds: planned length of the whole run.
    """
    assert 1 <= round <= rounds
    if schedule == "constant":
        return base
    return base * (1 + math.cos(math.pi * (round - 1) / rounds)) / 2
