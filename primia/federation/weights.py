"""The learned weights of a network as one float32 vector, in sorted order of parameter names."""

import hashlib
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float32]


def head_vector(head: nn.Module) -> Floats:
    """All parameters of `head`, flattened and joined; (parameters,) float32."""
    return joined_by_name(dict(head.named_parameters()))


def joined_by_name(values: Mapping[str, Tensor]) -> Floats:
    """Weights or gradients by parameter name, as one vector in the order of `head_vector`; (parameters,) float32."""
    parts = [value.detach().to(torch.float32).reshape(-1) for _, value in sorted(values.items())]
    return torch.cat(parts).numpy().copy()


def load_head(head: nn.Module, vector: Floats) -> None:
    """Write `vector` into the parameters of `head`, the inverse of `head_vector`."""
    parameters = [value for _, value in sorted(head.named_parameters())]
    ends = np.cumsum([0, *(value.numel() for value in parameters)])
    assert vector.shape == (ends[-1],)
    with torch.no_grad():
        for value, (start, end) in zip(parameters, pairwise(ends), strict=True):
            value.copy_(torch.from_numpy(vector[start:end].copy()).view_as(value))


def vector_digest(vector: Floats) -> str:
    """SHA-256 of the little-endian bytes, in hexadecimal."""
    little_endian = np.ascontiguousarray(vector, dtype="<f4")
    return hashlib.sha256(little_endian.data).hexdigest()
