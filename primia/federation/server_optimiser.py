"""How the coordinator moves the global model by the mean change of a round: FedAvg and FedAdam."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from primia.config import Server
from primia.federation.weights import Floats


@dataclass(frozen=True)
class ServerState:
    """What a server optimiser remembers after `step` rounds: two moments of the mean changes, (parameters,) each.

    FedAvg remembers nothing, and after its first step the moments are empty, (0,).
    """

    step: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]


def initial_state(parameters: int) -> ServerState:
    """The state before the first round, of either optimiser."""
    return ServerState(step=0, first=np.zeros(parameters), second=np.zeros(parameters))


def server_step(
    settings: Server, model: Floats, change: NDArray[np.float64], state: ServerState
) -> tuple[Floats, ServerState]:
    """Move the global model once; every operation is by coordinate, so equal arguments give equal bits.

    `fedavg` with a learning rate of 1 is the mean of the sites' models (McMahan et al. 2017). `fedadam` is algorithm 2
    of Reddi et al. 2021: momentum β1, a second moment of that momentum with β2 which starts at τ², no correction of the
    bias, and a step of learning_rate · first / (√second + τ).

    Args:
        settings: `federation.server` of params.yaml.
        model: (parameters,) float32.
        change: weighted mean of the sites' changes, (parameters,).
        state: what the last step returned, or `initial_state`.

    Returns:
        The new model, (parameters,) float32, and the new state; the arguments are left as they were.
    """
    assert model.shape == change.shape
    if settings.optimiser == "fedavg":
        nothing = np.zeros(0)
        step, state = change, ServerState(step=state.step + 1, first=nothing, second=nothing)
    else:
        assert state.first.shape == state.second.shape == change.shape
        earlier = state.second if state.step else np.full(len(change), settings.tau**2)
        first = settings.beta1 * state.first + (1 - settings.beta1) * change
        second = settings.beta2 * earlier + (1 - settings.beta2) * np.square(first)
        step, state = first / (np.sqrt(second) + settings.tau), ServerState(state.step + 1, first, second)
    return (model.astype(np.float64) + settings.learning_rate * step).astype(np.float32), state
