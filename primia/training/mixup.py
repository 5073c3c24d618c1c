"""MixUp: training on blends of two images, which keeps a network from being too sure of single ones."""

import numpy as np
import torch
from torch import Tensor


def mix(batch: Tensor, *, alpha: float, stream: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Blend each sample with another one of its batch (Zhang et al. 2018).

    Train on `share * loss(labels) + (1 - share) * loss(labels[partner])`. Not for differential privacy: a blend belongs
    to two patients.

    Args:
        batch: (n, ...) float32.
        alpha: the share is drawn from Beta(alpha, alpha), once per batch, as in the authors' code; > 0.
        stream: of the share and the partners.

    Returns:
        The blends, in the batch's shape; the partners' positions in the batch, (n,) int64; and the share, in [0, 1].
    """
    share = float(stream.beta(alpha, alpha))
    partner = torch.from_numpy(stream.permutation(len(batch)))
    return share * batch + (1 - share) * batch[partner], partner, share
