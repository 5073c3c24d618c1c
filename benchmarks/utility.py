"""What privacy costs in diagnoses: the grid of models, budgets and trust models on real X-rays.

    python -m benchmarks.utility --data /path/to/folder

Three hospitals, three classes, the publisher's test set. Every cell is a whole federation of its own with ledgers of
its own, then one look at the test patients. Nothing is chosen here: docs/results.md says how SETTINGS came about.
Writes `--out` (docs/results/xray.json) after every cell, and the plot beside it; cells that are in the file with the
same parameters are not run again, so a killed benchmark goes on.

Each cell of the file has its parameters and their digest; `mcc`, `accuracy`, `auc` and `pneumonia_auc` (pneumonia
against normal); `low` and `high`, the 95 % bootstrap over test patients of the MCC; ε as the ledgers tell it, δ and the
noise multiplier; the released round, its validation MCC, and the seconds of all rounds.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks import grid as grid_of_cells
from benchmarks.grid import overlaid, prepare
from benchmarks.utility_plot import draw_utility
from primia.config import Params, parse_params
from primia.data.image_set import ImageSet, load_image_set
from primia.evaluation.classified import Classified, judge_classes
from primia.evaluation.metrics import roc_curves
from primia.federation.floors import Floors
from primia.federation.run import federate
from primia.files import read_json

SEEDS = (1, 2, 3)
EPSILONS = (None, 8.0, 3.0, 1.0)
TRUST = ("local", "distributed")
PRETRAIN = ("none", "phantom")

# A deep network cannot take every patient in every step in reasonable time; the linear head can, which wastes least.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "scattering": {
        "training": {"learning_rate": 1e-4, "schedule": "cosine"},
        "federation": {"rounds": 30, "average": 0.0},
        "privacy": {"sampling_rate": 1.0, "local_steps": 1, "views": 4, "clip_norm": 20.0, "learning_rate": 0.01},
    },
    "resnet9": {
        "model": {"weight_standardisation": True},
        "training": {
            "learning_rate": 0.02,
            "schedule": "constant",
            "precision": "bfloat16",
            "pretrain_learning_rate": 0.02,
        },
        "federation": {"rounds": 30, "average": 0.5},
        "privacy": {"sampling_rate": 0.25, "local_steps": 1, "views": 1, "clip_norm": 1.0, "learning_rate": 1.0},
    },
}
SETTINGS["resnet18"] = SETTINGS["resnet9"]


@dataclass(frozen=True)
class Cell:
    """One federation of the grid; `epsilon` is per patient, None without differential privacy."""

    architecture: str
    epsilon: float | None
    trust: str
    pretrain: str
    seed: int

    @property
    def name(self) -> str:
        """A key for the file."""
        budget = "no privacy" if self.epsilon is None else f"ε {self.epsilon:g} {self.trust}"
        return f"{self.architecture}, {budget}, pretrain {self.pretrain}, seed {self.seed}"

    def params(self, base: dict[str, Any]) -> Params:
        """The parameters of this cell over `base`, all of params.yaml as a mapping."""
        own: dict[str, dict[str, Any]] = {
            "model": {"architecture": self.architecture, "seed": self.seed},
            "training": {"pretrain": self.pretrain, "seed": self.seed},
            "privacy": {"enabled": self.epsilon is not None},
        }
        if self.epsilon is not None:
            own["privacy"]["target_epsilon"] = self.epsilon
        if self.trust != TRUST[0]:
            own["privacy"]["trust"] = self.trust
        return parse_params(overlaid(overlaid(base, SETTINGS.get(self.architecture, {})), own))


def grid() -> list[Cell]:
    """All cells: the scattering network in full, the ResNets at one ε with one seed."""
    cells = [
        Cell("scattering", epsilon, trust, pretrain, seed)
        for epsilon in EPSILONS
        for trust in (TRUST if epsilon is not None else TRUST[:1])
        for pretrain in PRETRAIN
        for seed in SEEDS
    ]
    return cells + [Cell(deep, 8.0, "distributed", "phantom", 1) for deep in ("resnet9", "resnet18")]


def measure(
    cells: Iterable[Cell], base: dict[str, Any], *, sites: Path, test_file: Path, state: Path, out: Path
) -> None:
    """Run the cells that `out` does not hold yet; see `benchmarks.grid.measure`."""
    test = load_image_set(test_file)

    def measured(cell: Cell, params: Params, state: Path) -> dict[str, Any]:
        return _measured(cell, params, sites=sites, test=test, state=state)

    grid_of_cells.measure(
        cells, base, sites=sites, test_file=test_file, state=state, out=out, measured=measured, shown="mcc"
    )


def _measured(cell: Cell, params: Params, *, sites: Path, test: ImageSet, state: Path) -> dict[str, Any]:
    # The owner of this machine stands for all hospitals; their floors are not what is measured.
    floors = Floors(allow_newcomers=True, maximum_epsilon=100.0, maximum_delta=1.0)
    result = federate(params, sites=sites, state=state, floors=floors)
    judged = judge_classes(result.model, test, settings=params.evaluation)
    privacy = result.plan.privacy
    return {
        **asdict(cell),
        **{figure: judged.figures[figure]["value"] for figure in ("mcc", "accuracy", "auc")},
        "low": judged.figures["mcc"]["low"],
        "high": judged.figures["mcc"]["high"],
        "pneumonia_auc": pneumonia_auc(judged),
        "epsilon_spent": result.epsilon,
        "delta": None if privacy is None else privacy.delta,
        "noise_multiplier": None if privacy is None else privacy.noise_multiplier,
        "rounds": len(result.records),
        "released_round": result.model.round,
        "validation_mcc": result.records[result.model.round - 1].validation_score,
        "seconds": result.seconds,
        "settings": {
            section: getattr(params, section).model_dump(mode="json")
            for section in ("model", "training", "federation", "privacy")
        },
    }


def pneumonia_auc(judged: Classified) -> float:
    """Area under the ROC curve of any pneumonia against normal, by the probability of being normal."""
    curve = roc_curves(judged.probabilities, judged.labels, classes=judged.classes)["normal"]
    return float(np.trapezoid(curve.tpr, curve.fpr))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv and the images")
    parser.add_argument("--work", type=Path, default=Path(".state/benchmarks/utility"), help="what a resumed run needs")
    parser.add_argument("--out", type=Path, default=Path("docs/results/xray.json"))
    parser.add_argument("--only", default="", help="run cells whose name contains this")
    parser.add_argument("--list", action="store_true", help="print the names of the cells and stop")
    chosen = parser.parse_args(arguments)
    cells = [cell for cell in grid() if chosen.only in cell.name]
    if chosen.list:
        print("\n".join(cell.name for cell in cells))
        return
    base = overlaid(
        yaml.safe_load(Path("params.yaml").read_text()),
        yaml.safe_load(Path("profiles/chest_xray_private.yaml").read_text()),
    )
    base["ingest"]["folder"] = str(chosen.data)
    prepare(parse_params(base), chosen.work)
    test = chosen.work / "test" / "test.safetensors"
    measure(cells, base, sites=chosen.work / "sites", test_file=test, state=chosen.work / "state", out=chosen.out)
    draw_utility(chosen.out.with_suffix(".png"), list(read_json(chosen.out)["cells"].values()))


if __name__ == "__main__":
    main()
