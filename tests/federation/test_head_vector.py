import hashlib

import numpy as np
import torch
from torch import nn

from primia.federation.weights import head_vector, load_head, vector_digest


def test_the_vector_holds_parameters_in_sorted_order_of_their_names():
    head = nn.ModuleDict({"b": nn.Linear(1, 1), "a": nn.Linear(2, 1)})
    with torch.no_grad():
        for parameter, values in zip(head.parameters(), ([[1.0]], [2.0], [[3.0, 4.0]], [5.0]), strict=True):
            parameter.copy_(torch.tensor(values))
    assert head_vector(head).tolist() == [5.0, 3.0, 4.0, 2.0, 1.0]  # a.bias, a.weight, b.bias, b.weight


def test_loading_a_vector_undoes_taking_it():
    head = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    vector = np.random.default_rng(1).normal(size=len(head_vector(head))).astype(np.float32)
    load_head(head, vector)
    assert head_vector(head).tolist() == vector.tolist()
    vector[:] = 0  # the head holds a copy
    assert head_vector(head).any()


def test_the_digest_sees_a_single_bit():
    vector = np.ones(5, dtype=np.float32)
    other = vector.copy()
    other[3] = np.nextafter(np.float32(1), np.float32(2))
    assert vector_digest(vector) != vector_digest(other)
    assert vector_digest(vector) == hashlib.sha256(5 * bytes.fromhex("0000803f")).hexdigest()
