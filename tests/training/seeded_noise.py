"""A noise source that repeats itself: for tests only, it protects nobody."""

import torch


class SeededNoise:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape):
        return torch.randn(tuple(shape), generator=self.generator)

    def uniform(self, n):
        return torch.rand(n, generator=self.generator, dtype=torch.float64)
