"""Where the randomness of differential privacy comes from: an AES keystream keyed by the operating system."""

import math
import os
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.privacy.discrete_gaussian import discrete_gaussian

_CHUNK = 2**14  # normals computed at a time; the float64 work space then fits the processor's cache
_ADDENDS = 4


class NoiseSource(Protocol):
    """Draws for noise and for sampling patients."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Independent standard normal values of this shape, float64.

        Whoever adds them rounds the result to a grid far coarser than float64, or the low bits tell what they hid.
        """

    def uniform(self, n: int) -> Tensor:
        """(n,) independent float64 values in [0, 1)."""

    def discrete(self, n: int) -> NDArray[np.int64]:
        """(n,) independent integers of the discrete Gaussian with deviation `discrete_gaussian.DEVIATION`."""


class SystemNoise:
    """Cryptographic noise: AES-256 in counter mode under a key from os.urandom, never seeded, never stored.

    Normal values come from the Box-Muller transform in float64; each is half the sum of four, so that the few
    floating-point values one transform can reach do not betray what the noise was added to (Mironov 2012; Holohan &
    Braghin 2021, section 4). A source that lives through a fork would repeat itself in the child, so it refuses;
    threads may share one, and none gets what another got.
    """

    def __init__(self) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        self._keystream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()
        self._process, self._lock = os.getpid(), threading.Lock()

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Independent standard normal values of this shape, float64."""
        wanted = math.prod(shape)
        values = np.empty(wanted)
        for start in range(0, wanted, _CHUNK):
            part = values[start : start + _CHUNK]
            part[:] = self._normals(part.size)
        return torch.from_numpy(values).reshape(tuple(shape))

    def uniform(self, n: int) -> Tensor:
        """(n,) independent float64 values in [0, 1), multiples of 2^-53."""
        return torch.from_numpy(self._integers(n) * 2.0**-53)

    def discrete(self, n: int) -> NDArray[np.int64]:
        """(n,) independent integers of the discrete Gaussian with deviation `discrete_gaussian.DEVIATION`."""
        return discrete_gaussian(self._words, n)

    def _normals(self, n: int) -> NDArray[np.float64]:
        # Four Box-Muller pairs give two values: the sum of their four cosines and the sum of their four sines.
        half = (n + 1) // 2
        radius = np.sqrt(-2.0 * np.log((self._integers(_ADDENDS * half) + 1.0) * 2.0**-53))
        angle = torch.from_numpy(self._integers(_ADDENDS * half) * (2.0 * math.pi * 2.0**-53))
        # torch's sine and cosine are several times as fast as numpy's in float64.
        values = np.concatenate(
            [
                (radius * branch.numpy()).reshape(_ADDENDS, half).sum(axis=0)
                for branch in (torch.cos(angle), torch.sin(angle))
            ]
        )
        return values[:n] / math.sqrt(_ADDENDS)

    def _integers(self, n: int) -> NDArray[np.float64]:
        """(n,) uniform integers below 2^53, as float64, which holds them exactly."""
        return (self._words(n) >> np.uint64(11)).astype(np.float64)

    def _words(self, n: int) -> NDArray[np.uint64]:
        """(n,) uniform words of 64 bits: the next of the keystream."""
        assert os.getpid() == self._process, "a noise source must not be shared with a forked process"
        zeros = bytes(8 * n)
        with self._lock:
            return np.frombuffer(self._keystream.update(zeros), dtype="<u8")
