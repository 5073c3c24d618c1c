"""The normalisation layers that a site keeps to itself between rounds (FedBN), and where it keeps them."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn

from primia.errors import DataError
from primia.federation.weights import Floats
from primia.files import write_bytes


def normalisation_weights(head: nn.Module) -> NDArray[np.bool_]:
    """Which entries of `head_vector` belong to normalisation layers, (parameters,)."""
    layers = [name for name, module in head.named_modules() if isinstance(module, nn.GroupNorm)]
    kept = {f"{layer}.{name}" for layer in layers for name in ("weight", "bias")}
    parts = [np.full(weight.numel(), name in kept) for name, weight in sorted(head.named_parameters())]
    return np.concatenate(parts)


class LocalNormalisation:
    """A site's own normalisation weights after the last rounds of one run, (weights,) float32 for each round.

    Two rounds are kept, the one trained last and the one before: a repeated attempt of a round starts from the same
    weights as the first attempt did, and so ends in the same bits. A round that the coordinator undoes leaves them as
    this site's own training made them.

    Raises:
        DataError: the file is damaged.
    """

    def __init__(self, path: Path | None) -> None:
        """`path` is the file that outlives the process; None keeps the weights in memory only."""
        self._path = path
        self._rounds: dict[int, Floats] = {}
        if path is not None and path.exists():
            try:
                self._rounds = {int(round): values for round, values in load_file(path).items()}
            except (SafetensorError, ValueError) as error:
                raise DataError(
                    f"{path} is damaged; remove it, and this hospital goes on from the normalisation layers of the "
                    "global model."
                ) from error

    def before(self, round: int) -> Floats | None:
        """What the latest earlier round left behind; None if there is none."""
        earlier = self._earlier(round)
        return None if earlier is None else self._rounds[earlier]

    def keep(self, round: int, values: Floats) -> None:
        """Keep what `round` ended with; on disk when this returns."""
        earlier = self._earlier(round)
        kept = {} if earlier is None else {earlier: self._rounds[earlier]}
        self._rounds = kept | {round: values}
        if self._path is not None:
            content = save({str(round): values for round, values in self._rounds.items()})
            write_bytes(self._path, content, mode=0o600)

    def _earlier(self, round: int) -> int | None:
        return max((kept for kept in self._rounds if kept < round), default=None)
