"""Whether the attacks attack, and whether their verdicts tell an honest training from a broken one.

    python -m benchmarks.attacks --json
    python -m benchmarks.attacks --data /path/to/folder --json

A federation of phantoms (with `--data` of real images in the layout of profiles/chest_xray_private.yaml, under its
settings) is trained with differential privacy, attacked with `--budget`, broken in every way that
`primia.attacks.mutations` knows and attacked again, and a small federation is attacked honestly `--runs` times, each
time with fresh noise and another seed. The last line of `--json` is one JSON object:

- lenet_psnr_db: of an image found from the gradient of a sigmoid LeNet at 32 pixels; the attack code works.
- retrieval_undefended, retrieval_defended: rate, n, and the exact interval, of the released weights.
- rero_bound: what the declared privacy of one step allows.
- mutations_flagged: those that ended in FAIL; mutations: all of them.
- audit_lower_bound, audit_accounted, audit_ceiling: ε of all audited steps, proved at 95 %, accounted, and what all
  guesses being right would prove.
- false_alarms, honest_runs: honest runs that ended in FAIL, of how many.
- verdicts, seconds: by attack, of the honest federation at `--budget`; seconds of one core.
- budget, seed, images, pixels, architecture, epsilon, machine.
"""

import argparse
import dataclasses
import json
import os
import platform
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.grid import overlaid, prepare
from primia.attacks.campaign import Campaign, attacks_on
from primia.attacks.contract import AttackReport, Verdict
from primia.attacks.lenet import lenet_control
from primia.attacks.mutations import MUTATIONS, mutate
from primia.attacks.results import worst
from primia.attacks.scene import Scene
from primia.attacks.staging import set_scene
from primia.attacks.statement import read_statement
from primia.config import Params, parse_params
from primia.data.image_set import load_image_set
from primia.federation.floors import Floors
from primia.federation.results import write_results
from primia.federation.run import federate
from primia.files import folder_in_progress
from primia.models.released import load_model, save_model

# Those that look at updates, which is what a mutation breaks.
WATCHFUL = ("gradient_retrieval", "round_retrieval", "one_run_audit")
SMALL: dict[str, Any] = {
    "ingest": {"phantom": {"patients": 450}},
    "preprocess": {"pixels": 32, "test_fraction": 0.4},
    "privacy": {"site_population": 80, "delta": 1e-3, "statistics_noise": 4.0},
}


def measure(params: Params, small: Params, *, seed: int, runs: int, folder: Path) -> dict[str, Any]:
    """Train, attack, break and attack again; the keys are those of the module's docstring."""
    scene = trained(params, folder / "federation")
    reports = attacked(scene, folder / "attacks")
    by_name: dict[str, list[AttackReport]] = {}
    for report in reports:
        by_name.setdefault(report.name, []).append(report)
    retrieval = next(report for report in by_name["gradient_retrieval"] if report.round == "released")
    audit = by_name["one_run_audit"][0].outcome.facts["whole"]
    flagged = [name for name in MUTATIONS if broken(scene, name, folder / name.replace(" ", "-")) is Verdict.FAIL]
    quiet, alarms = trained(small, folder / "small"), 0
    for run in range(runs):
        settings = quiet.settings.model_copy(update={"seed": seed + run})
        found = attacked(dataclasses.replace(quiet, settings=settings), folder / f"honest-{run}")
        alarms += worst(found).verdict is Verdict.FAIL
        print(f"Honest run {run + 1} of {runs}: {worst(found).verdict.value}, {alarms} false alarms so far", flush=True)
    assert scene.declared is not None
    return {
        "lenet_psnr_db": lenet_control(seed),
        "retrieval_undefended": _rate(retrieval, "positive"),
        "retrieval_defended": _rate(retrieval, "trials"),
        "rero_bound": retrieval.outcome.bound,
        "mutations_flagged": flagged,
        "mutations": list(MUTATIONS),
        "audit_lower_bound": audit["epsilon_lower"],
        "audit_accounted": audit["epsilon"],
        "audit_ceiling": audit["ceiling"],
        "false_alarms": alarms,
        "honest_runs": runs,
        "verdicts": {name: worst(group).verdict.value for name, group in by_name.items()},
        "seconds": {name: round(sum(report.seconds for report in group), 1) for name, group in by_name.items()},
        "budget": scene.budget.name,
        "seed": seed,
        "images": len(scene.candidates),
        "pixels": scene.released.pixels,
        "architecture": scene.released.architecture,
        "epsilon": scene.declared.epsilon,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def trained(params: Params, folder: Path) -> Scene:
    """The scene of a federation that is trained here, or was before."""
    sites, model, results = folder / "sites", folder / "model", folder / "results"
    if not (results / "privacy.json").exists():
        prepare(params, folder)
        # The owner of this machine stands for all hospitals; their floors are not what is measured.
        floors = Floors(allow_newcomers=True, maximum_epsilon=100.0, maximum_delta=1.0)
        result = federate(params, sites=sites, state=folder / "state", floors=floors)
        save_model(model, result.model)
        with folder_in_progress(results) as finished:
            write_results(finished, result)
    return set_scene(
        params,
        read_statement(results / "privacy.json"),
        load_model(model, classes=params.ingest.classes),
        candidates=load_image_set(folder / "test" / "test.safetensors"),
        sites=sites,
    )


def attacked(scene: Scene, folder: Path, names: Sequence[str] = ()) -> list[AttackReport]:
    """All attacks, or those named, side by side on the cores there are."""
    campaign = Campaign(scene, attacks_on(scene, names), folder, on_progress=lambda done, total: None)
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for _ in workers.map(campaign.do, campaign.jobs):
            pass
    return campaign.reports()


def broken(scene: Scene, mutation: str, folder: Path) -> Verdict:
    """The worst verdict on a training that is broken in one way."""
    mutated = mutate(scene, mutation)
    return worst(attacked(mutated, folder, [name for name in WATCHFUL if _has(mutated, name)])).verdict


def _has(scene: Scene, name: str) -> bool:
    return any(attack.name == name for attack in attacks_on(scene))


def _rate(report: AttackReport, arm: str) -> dict[str, Any]:
    trials = getattr(report.outcome, arm)
    low, high = trials.interval(report.confidence)
    return {"rate": trials.rate, "n": trials.total, "low": low, "high": high}


def main() -> None:
    """Measure, print a few lines, and with --json the object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with labels.csv and images; phantoms without it")
    parser.add_argument("--budget", choices=("quick", "standard", "full"), default="quick")
    parser.add_argument("--runs", type=int, default=60, help="honest runs in which a FAIL is a false alarm")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps the trained federations for another call")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = yaml.safe_load(Path("params.yaml").read_text())
    seeded = {
        "ingest": {"phantom": {"seed": arguments.seed}},
        "attack": {"budget": arguments.budget, "seed": arguments.seed},
    }
    own: dict[str, Any] = {}
    if arguments.data is not None:
        own = yaml.safe_load(Path("profiles/chest_xray_private.yaml").read_text())
        own = overlaid(own, {"ingest": {"folder": str(arguments.data)}})
    params = parse_params(overlaid(overlaid(base, own), seeded))
    small = parse_params(overlaid(overlaid(base, SMALL), overlaid(seeded, {"attack": {"budget": "quick"}})))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or Path(temporary)
        figures = measure(params, small, seed=arguments.seed, runs=arguments.runs, folder=folder)
    for name, verdict in figures["verdicts"].items():
        print(f"{name:20} {verdict:13} {figures['seconds'][name]:7.1f} s")
    print(f"Flagged: {', '.join(figures['mutations_flagged'])} of {', '.join(figures['mutations'])}")
    print(f"False alarms: {figures['false_alarms']} of {figures['honest_runs']}")
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
