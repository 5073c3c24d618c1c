"""What federation and privacy leave of a segmentation of real brain MR: the table of docs/results.md.

    python -m benchmarks.hippocampus --data /path/to/Task04_Hippocampus

Three hospitals and one test set of patients. A cell is a training of its own: of all images in one place, of one
hospital's alone, or federated, without differential privacy and with it. Writes `--out` (docs/results/hippocampus.json)
after every cell, and ends with a table of it. Cells that are there with the same parameters are not run again, so that
a killed benchmark goes on; two processes may share the work by `--only`. docs/results.md says how the settings came
about.

Each cell of the file has its parameters and their digest; `dice`, `hd95` and `surface_dice` with the ends of the 95 %
bootstrap over test patients, `dice_by_structure`, and the Dice of each patient; ε as the ledgers tell it, δ and the
noise multiplier; weights, the bytes that a hospital sends in a round, rounds, and the seconds of a round.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks import grid
from benchmarks.grid import overlaid, prepare
from benchmarks.hippocampus_table import differences, table
from primia.comparison.arms import ALONE, CENTRALISED, FEDERATED, arms_of
from primia.comparison.one_place import pooled, train_in_one_place
from primia.config import Params, parse_params
from primia.data.image_set import ImageSet, load_image_set
from primia.evaluation.segmented import Segmented, judge_masks
from primia.federation.floors import Floors
from primia.federation.run import federate
from primia.files import read_json
from primia.models.released import ReleasedModel

HOSPITALS = ("north", "river", "hill")
SEEDS = (1, 2, 3)
# The profile that each network is trained by, with or without differential privacy.
PROFILES = {"unet": "hippocampus", "monet": "hippocampus", "jet": "hippocampus_private"}
# A round of a federation is a quarter of a pass over all images, and where they lie in one place a whole one.
PASSES = {"unet": 10, "monet": 6}  # a slice takes MoNet twice as long as the U-Net
ROUNDS_A_PASS = 4
IN_ONE_PLACE: dict[str, Any] = {"training": {"local_steps": None}}
# Of MoNet and the U-Net with differential privacy, and of the jet without.
PRIVATE: dict[str, Any] = {
    "training": {
        "batch_size": 16,
        "pretrain": "phantom",
        "pretrain_patients": 600,
        "pretrain_epochs": 3,
        "pretrain_learning_rate": 0.05,
    },
    "federation": {"rounds": 30, "average": 0.0, "release": "last"},
    "privacy": {
        "trust": "distributed",
        "delta": 0.001,
        "clip_norm": 0.1,
        "sampling_rate": 1.0,
        "site_population": 60,
        "local_steps": 1,
        "learning_rate": 0.2,
    },
}
OPEN: dict[str, Any] = {"training": {"learning_rate": 0.3, "batch_size": 4}}


@dataclass(frozen=True)
class Cell:
    """One training; `way` is the name of an arm of `primia.comparison.arms`, `epsilon` None without privacy.

    `rounds` is how many, where a training is only to be timed.
    """

    architecture: str
    way: str
    epsilon: float | None
    seed: int
    rounds: int | None = None

    @property
    def name(self) -> str:
        """A key for the file."""
        budget = "no privacy" if self.epsilon is None else f"ε {self.epsilon:g}"
        return f"{self.architecture}, {self.way}, {budget}, seed {self.seed}"

    def params(self, base: dict[str, Any]) -> Params:
        """The parameters of this cell over `base`, params.yaml with a profile over it as a mapping."""
        private = self.epsilon is not None
        unusual: dict[str, Any] = {}
        # Of the jet the profile is private, of the others it is not.
        if (self.architecture == "jet") != private:
            unusual = PRIVATE if private else OPEN
        elif self.way != FEDERATED:
            unusual = overlaid(IN_ONE_PLACE, {"federation": {"rounds": PASSES[self.architecture]}})
        elif not private:
            unusual = {"federation": {"rounds": ROUNDS_A_PASS * PASSES[self.architecture]}}
        own: dict[str, Any] = {
            "model": {"architecture": self.architecture, "seed": self.seed},
            "training": {"seed": self.seed},
            "privacy": {"enabled": private},
        }
        if private:
            own["privacy"]["target_epsilon"] = self.epsilon
        if self.rounds is not None:
            own["federation"] = {"rounds": self.rounds}
        params = parse_params(overlaid(overlaid(base, unusual), own))
        if self.way == FEDERATED:
            return params
        return next(arm for arm in arms_of(params) if arm.name == self.way).params(params, seed=self.seed)


def cells_of(architecture: str) -> list[Cell]:
    """The headline rows with three seeds, the others with one; the jet is there for its privacy."""
    private = [*(Cell(architecture, FEDERATED, 8.0, seed) for seed in SEEDS), Cell(architecture, FEDERATED, 3.0, 1)]
    if architecture == "jet":
        return [Cell(architecture, FEDERATED, None, 1), *private]
    alone = [f"{ALONE}: {name}" for name in HOSPITALS]
    return [
        *(Cell(architecture, FEDERATED, None, seed) for seed in SEEDS),
        *private,
        *(Cell(architecture, way, None, 1) for way in (CENTRALISED, *alone)),
    ]


def measured(cell: Cell, params: Params, *, sites: Path, test: ImageSet, state: Path) -> dict[str, Any]:
    """Train one cell, and judge it on the test patients."""
    told: dict[str, Any] = {"bytes_per_round": None, "epsilon_spent": None, "delta": None, "noise_multiplier": None}
    started = time.monotonic()
    if cell.way != FEDERATED:
        model, rounds = _in_one_place(cell, params, sites=sites), params.federation.rounds
        seconds = time.monotonic() - started
    else:
        # The owner of this machine stands for all hospitals; their floors are not what is measured.
        floors = Floors(allow_newcomers=True, maximum_epsilon=100.0, maximum_delta=1.0, lifetime_epsilon=1000.0)
        result = federate(params, sites=sites, state=state, floors=floors)
        model, rounds, seconds = result.model, len(result.records), result.seconds
        told |= {"bytes_per_round": result.records[-1].bytes_up_per_site, "epsilon_spent": result.epsilon}
        if result.plan.privacy is not None:
            told |= {name: getattr(result.plan.privacy, name) for name in ("delta", "noise_multiplier")}
    judged = judge_masks(model, test, settings=params.evaluation)
    return {
        **asdict(cell),
        **_figures(judged),
        **told,
        "parameters": sum(weight.numel() for weight in model.network.head.parameters()),
        "rounds": rounds,
        "released_round": model.round,
        "seconds_per_round": round(seconds / rounds, 2),
        "settings": {
            section: getattr(params, section).model_dump(mode="json")
            for section in ("model", "training", "federation", "privacy")
        },
    }


def _in_one_place(cell: Cell, params: Params, *, sites: Path) -> ReleasedModel:
    places = HOSPITALS if cell.way == CENTRALISED else (cell.way.removeprefix(f"{ALONE}: "),)
    train, validation = (
        pooled([load_image_set(sites / name / f"{split}.safetensors") for name in places])
        for split in ("train", "validation")
    )
    return train_in_one_place(params, name="-".join(places), train=train, validation=validation)


def _figures(judged: Segmented) -> dict[str, Any]:
    kept = {name: judged.figures[name] for name in ("dice", "hd95", "surface_dice", "dice_by_structure")}
    return {**kept, "dice_of_patients": [round(float(dice), 4) for dice in np.nanmean(judged.dice, axis=1)]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with imagesTr and labelsTr")
    parser.add_argument("--work", type=Path, default=Path(".state/benchmarks/hippocampus"), help="for a resumed run")
    parser.add_argument("--out", type=Path, default=Path("docs/results/hippocampus.json"))
    parser.add_argument("--only", default="", help="run cells whose name contains this")
    parser.add_argument("--rounds", type=int, help="so few, to see how long one takes; needs an --out of its own")
    parser.add_argument("--list", action="store_true", help="print the names of the cells and stop")
    chosen = parser.parse_args(arguments)
    if chosen.rounds is not None and chosen.out.resolve() == parser.get_default("out").resolve():
        parser.error(f"with --rounds the Dice is that of an unfinished training; name another --out than {chosen.out}.")
    torch.set_num_threads(1)
    for architecture, profile in PROFILES.items():
        cells = [replace(cell, rounds=chosen.rounds) for cell in cells_of(architecture) if chosen.only in cell.name]
        if chosen.list:
            print("\n".join(cell.name for cell in cells))
            continue
        base = yaml.safe_load(Path("params.yaml").read_text())
        base = overlaid(base, yaml.safe_load((Path("profiles") / f"{profile}.yaml").read_text()))
        base["ingest"]["folder"] = str(chosen.data)
        folder = chosen.work / profile
        prepare(parse_params(base), folder)
        test = load_image_set(folder / "test" / "test.safetensors")

        def trained(cell: Cell, params: Params, state: Path, folder: Path = folder, test: ImageSet = test) -> Any:
            return measured(cell, params, sites=folder / "sites", test=test, state=state)

        grid.measure(
            cells,
            base,
            sites=folder / "sites",
            test_file=folder / "test" / "test.safetensors",
            state=folder / "state",
            out=chosen.out,
            measured=trained,
            shown="dice",
        )
    if chosen.out.exists() and not chosen.list:
        told = read_json(chosen.out)["cells"]
        order = [cell.name for architecture in PROFILES for cell in cells_of(architecture)]
        known = [told[name] for name in order if name in told]
        print(f"\n{table(known)}\n\n{differences(known)}")


if __name__ == "__main__":
    main()
