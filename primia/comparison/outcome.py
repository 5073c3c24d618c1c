"""What a finished training of the comparison leaves behind, in memory and on disk."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from primia.comparison.arms import Arm
from primia.evaluation.metrics import Floats, Ints
from primia.files import write_bytes

_TOLD = ("round", "epsilon", "seconds")


@dataclass(frozen=True)
class Outcome:
    """What is kept of one training; the model itself is dropped.

    `answers` are (images, classes) probabilities of the test images, or (patients, structures) Dice of the test
    patients, in the order of their numbers; `round` is the one that was released; `epsilon` is what
    the largest ledger says, None without differential privacy; `seconds` is how long the training took since its
    last start.
    """

    answers: Floats
    round: int
    epsilon: float | None
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """All outcomes, by name of the arm and then by seed, with the truth about the test images.

    `labels` are (images,) classes or (images, *spatial) masks.
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    outcomes: dict[str, dict[int, Outcome]]
    labels: Ints
    patients: Ints  # (images,)


def save_outcome(path: Path, outcome: Outcome) -> None:
    """Write an outcome in one file, atomically."""
    told = {name: getattr(outcome, name) for name in _TOLD}
    write_bytes(path, save({"answers": outcome.answers}, metadata={"outcome": json.dumps(told)}))


def load_outcome(path: Path) -> Outcome | None:
    """A finished outcome; None if there is none yet, or a damaged one, which is then made again."""
    try:
        with safe_open(path, framework="numpy") as stream:
            answers = np.asarray(stream.get_tensor("answers"), dtype=np.float64)
            return Outcome(answers=answers, **json.loads(stream.metadata()["outcome"]))
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, json.JSONDecodeError):
        return None
