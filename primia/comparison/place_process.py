"""The process of one arm whose images lie in one place: it trains, and leaves its outcome in a file.

All of params.yaml comes as JSON on standard input. On standard output goes a line of JSON for every finished round,
{"round": 3}, or one for the reason why there is no outcome, {"error": "..."}.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

from primia.comparison.arms import arms_of
from primia.comparison.judging import judge
from primia.comparison.one_place import pooled, train_in_one_place
from primia.comparison.outcome import save_outcome
from primia.config import Params, parse_params
from primia.data.image_set import load_image_set
from primia.errors import PrimiaError


def train_arm(params: Params, *, name: str, seed: int, sites: Path, test: Path, outcome: Path) -> None:
    """Train the arm `name` and write its outcome; every round is told on standard output."""
    arm = next(arm for arm in arms_of(params) if arm.name == name and not arm.federated)
    train, validation = (
        pooled([load_image_set(sites / hospital / f"{split}.safetensors") for hospital in arm.hospitals])
        for split in ("train", "validation")
    )
    started = time.monotonic()
    model = train_in_one_place(
        arm.params(params, seed=seed),
        # A lone hospital keeps its name, so that it sees its images in the order in which it does in the federation.
        name=arm.hospitals[0] if arm.alone else arm.name,
        train=train,
        validation=validation,
        on_round=lambda round: _tell(round=round),
    )
    seconds = time.monotonic() - started
    save_outcome(outcome, judge(model, load_image_set(test), settings=params.evaluation, seconds=seconds))


def _tell(**said: object) -> None:
    print(json.dumps(said), flush=True)


def main() -> int:
    """Run one arm; see `side_by_side` for the arguments."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--arm", required=True)
    parser.add_argument("--seed", type=int, required=True)
    for place in ("--sites", "--test", "--outcome"):
        parser.add_argument(place, type=Path, required=True)
    given = parser.parse_args()
    try:
        train_arm(
            parse_params(json.load(sys.stdin)),
            name=given.arm,
            seed=given.seed,
            sites=given.sites,
            test=given.test,
            outcome=given.outcome,
        )
    except PrimiaError as error:
        _tell(error=str(error))
        return 1
    except BrokenPipeError:  # whoever asked for the comparison is gone
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # taking torch down in an orderly way can cost seconds
