"""The coordinator's side of the arithmetic: the sum of masked vectors, without its masks."""

from collections.abc import Mapping

import numpy as np

from primia.secagg.masks import Words, add_keystream, self_mask_key
from primia.secagg.session import Session


def sum_of(vectors: Mapping[str, Words]) -> Words:
    """Sum modulo 2^32 over sites; pairwise masks cancel, self-masks remain."""
    first, *others = vectors.values()
    total = first.copy()
    for vector in others:
        total += vector
    return total


def remove_self_masks(total: Words, seeds: Mapping[str, bytes], *, session: Session) -> None:
    """Subtract from `total`, in place, the self-mask of every site, given the revealed 32-byte seeds."""
    assert total.dtype == np.uint32
    for name, seed in seeds.items():
        add_keystream(total, self_mask_key(seed, session, name=name), subtract=True)
