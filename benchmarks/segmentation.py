"""What federation and privacy leave of a segmentation, and what clipping per patient costs it in time.

    python -m benchmarks.segmentation --json                                    # synthetic lungs
    python -m benchmarks.segmentation --data /path/to/Task04_Hippocampus --json

Without `--data` it is msd_task04_hippocampus in the folder that the environment variable PRIMIA_REAL_DATA names (unset:
../shared/data), if that is there, else phantoms. A federation without differential privacy is trained with the settings
of profiles/hippocampus.yaml, but for `--rounds` and the last of them, and one with it, with those of
profiles/hippocampus_private.yaml. They are different networks, so the difference of their Dice is not the price of
privacy; benchmarks.hippocampus has that. Of phantoms both are trained with profiles/lungs.yaml, without privacy at a
learning rate of 0.5. The last line of `--json` is one JSON object:

- dice_federated, dice_dp: mean Dice over test patients and structures; intervals: with the ends of the 95 % bootstrap.
- epsilon: per patient, of the private federation.
- penalty: CPU time of the clipped sum of gradients of 16 slices over that of their plain gradient, a U-Net at 64
  pixels in float32, median of turns; penalties: the same of each network.
- rounds, seconds: of each federation, wall time of its rounds.
- parameters, bytes_per_round: of each; sent by a hospital in a round.
- data, seed, patients, machine.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from benchmarks.grid import overlaid, prepare
from benchmarks.timing import Stopwatch
from primia.config import Params, parse_params
from primia.data.image_set import load_image_set
from primia.evaluation.evaluate import evaluate
from primia.federation.floors import Floors
from primia.federation.run import federate
from primia.models.networks import build_network
from primia.training.objective import row_losses
from primia.training.private import clipped_gradient_sum

PROFILES = Path("profiles")
ROUNDS = {"hippocampus": 20, "lungs": 6}  # without differential privacy, unless told otherwise
NETWORKS = ("unet", "monet", "jet")
SLICES, PIXELS, TURNS = 16, 64, 7


def measured(params: Params, folder: Path) -> dict[str, Any]:
    """Train one federation on prepared images below `folder`, and judge it."""
    prepare(params, folder)
    # The owner of this machine stands for all hospitals; their floors are not what is measured.
    floors = Floors(allow_newcomers=True, maximum_epsilon=100.0, maximum_delta=1.0, lifetime_epsilon=1000.0)
    result = federate(params, sites=folder / "sites", state=folder / "state", floors=floors)
    judged = evaluate(
        result.model, load_image_set(folder / "test" / "test.safetensors"), settings=params.evaluation
    ).figures
    return {
        "dice": judged["dice"],
        "patients": judged["patients"],
        "epsilon": result.epsilon,
        "rounds": len(result.records),
        "seconds": round(result.seconds, 1),
        "parameters": sum(weight.numel() for weight in result.model.network.head.parameters()),
        "bytes_per_round": result.records[-1].bytes_up_per_site,
    }


def penalty(architecture: str, *, seed: int) -> float:
    """CPU time of a private step's gradients over that of a plain step's, as the median of turns."""
    network = build_network(architecture, classes=3, pixels=PIXELS, seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # a front has no weights; what it makes of images is kept
        inputs = network.front(torch.randn(SLICES, 1, PIXELS, PIXELS, generator=random)).float()
    masks = torch.randint(0, 3, (SLICES, PIXELS, PIXELS), generator=random, dtype=torch.uint8)
    weights: list[Tensor] = list(network.head.parameters())
    ratios = []
    for turn in range(TURNS + 1):
        watch = Stopwatch()
        with watch.phase("plain"):
            losses = row_losses(network.head(inputs), masks.long(), "dice_cross_entropy")
            torch.autograd.grad(losses.mean(), weights)
        with watch.phase("private"):
            clipped_gradient_sum(
                network.head,
                inputs=inputs,
                labels=masks,
                patients_drawn=torch.arange(SLICES),
                clip_norm=1.0,
                loss="dice_cross_entropy",
            )
        if turn:  # the first one warms up
            ratios.append(watch.phases["private"] / watch.phases["plain"])
    return statistics.median(ratios)


def figures_of(
    federated: dict[str, Any], dp: dict[str, Any], penalties: dict[str, float], *, data: str, seed: int
) -> dict[str, Any]:
    """The object of the last line, from what was `measured` of both federations."""
    both = ("rounds", "seconds", "parameters", "bytes_per_round")
    return {
        "dice_federated": federated["dice"]["value"],
        "dice_dp": dp["dice"]["value"],
        "intervals": {"dice_federated": federated["dice"], "dice_dp": dp["dice"]},
        "epsilon": dp["epsilon"],
        "penalty": penalties["unet"],
        "penalties": penalties,
        **{name: {"federated": federated[name], "dp": dp[name]} for name in both},
        "patients": dp["patients"],
        "data": data,
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def with_profile(name: str, *, data: Path | None, changes: dict[str, Any]) -> Params:
    """params.yaml with a profile, the folder of the images, and `changes` over it."""
    base = yaml.safe_load(Path("params.yaml").read_text())
    own = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    folder = {} if data is None else {"ingest": {"folder": str(data)}}
    return parse_params(overlaid(overlaid(overlaid(base, own), folder), changes))


def real_data() -> Path | None:
    """The volumes that PRIMIA_REAL_DATA has, if any."""
    folder = Path(os.environ.get("PRIMIA_REAL_DATA", "../shared/data")) / "msd_task04_hippocampus"
    return folder if folder.is_dir() else None


def main() -> None:
    """Measure, print a few lines, and with --json the object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with imagesTr and labelsTr")
    parser.add_argument("--rounds", type=int, help=f"of the federation without differential privacy; usually {ROUNDS}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps prepared images and unfinished federations for another call")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = arguments.data or real_data()
    plain, private = ("lungs", "lungs") if data is None else ("hippocampus", "hippocampus_private")
    seed = {"model": {"seed": arguments.seed}, "training": {"seed": arguments.seed}}
    rounds = arguments.rounds or ROUNDS[plain]
    off = {"privacy": {"enabled": False}, "federation": {"rounds": rounds, "release": "last"}}
    if data is None:
        off["training"] = {"learning_rate": 0.5}
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        federated = measured(with_profile(plain, data=data, changes=overlaid(off, seed)), work / "federated")
        dp = measured(with_profile(private, data=data, changes=seed), work / "private")
    penalties = {architecture: penalty(architecture, seed=arguments.seed) for architecture in NETWORKS}
    told = "phantoms" if data is None else "hippocampus"
    figures = figures_of(federated, dp, penalties, data=told, seed=arguments.seed)
    for name, dice in figures["intervals"].items():
        ends = "of too few patients" if dice["low"] is None else f"{dice['low']:.3f} to {dice['high']:.3f}"
        print(f"{name:15} {dice['value']:.3f} ({ends})")
    shown = ", ".join(f"{times:.2f} ({architecture})" for architecture, times in penalties.items())
    print(f"ε {figures['epsilon']:.2f} per patient; a private step takes this many times a plain one: {shown}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
