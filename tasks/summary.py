"""What a person wants to know when the pipeline has ended: a short table, and what to type next."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from primia.files import read_json
from tasks.approval import CHALLENGER, CHAMPION, MARKS_TAG
from tasks.environment import checkout
from tasks.paths import ATTACK, COMPARISON, ENCRYPTION, EVALUATION, FEDERATION, REPORT
from tasks.registry import registered_version
from tasks.stage import parameters

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

    from primia.config import Params


def print_summary() -> None:
    """Print utility, privacy, attack, encryption, version and report, each from its file."""
    from rich.console import Console
    from rich.table import Table

    params = parameters()
    table = Table(title="primia", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, text in _rows().items():
        table.add_row(name, text)
    version = registered_version(params)
    if version is not None:
        held = [alias for alias in (CHAMPION, CHALLENGER) if alias in version.aliases]
        standing = f", {held[0]}" if held else ", no challenger: see its gate tags"
        marks = version.tags.get(MARKS_TAG)
        table.add_row(
            "model", f"{params.registry.name} version {version.version}{standing}{f' ({marks})' if marks else ''}"
        )
    table.add_row("report", str(checkout() / REPORT / "report.html"))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print()
    console.print(table, soft_wrap=True)
    console.print(f"\n{next_steps(version, params)}", highlight=False, soft_wrap=True)


def next_steps(version: "ModelVersion | None", params: "Params") -> str:
    """What to type after a run that registered `version`, or none; a champion needs no promotion.

    A classifier then answers encrypted images, and a model of volumes marks them.
    """
    steps = [
        ("make up", "Prefect, MLflow and the diagnosis service (make down)"),
        ("source .venv/bin/activate && dvc metrics show", "every figure; dvc exp run -S federation.rounds=5"),
    ]
    if version is None or CHAMPION not in version.aliases:
        number = "N" if version is None else version.version
        steps.append((f'python -m flows.promote --version {number} --name "..." --reason "..."', "after your review"))
    if params.task == "classification":
        steps.append(("primia token add clinic-a", "then diagnose encrypted images: docs/encrypted.md"))
    elif params.preprocess.volume is not None:
        place = f"models:/{params.registry.name}@{CHAMPION}"
        steps.append((f"primia segment scan.nii.gz --model {place}", "then, a mask for a new volume"))
    return "\n".join(["Next:", *(f"  {command:<50}   {why}" for command, why in steps)])


def _rows() -> dict[str, str]:
    utility = read_json(EVALUATION / "metrics.json")
    privacy = read_json(FEDERATION / "privacy.json")
    attack = read_json(ATTACK / "metrics.json")
    encryption = read_json(ENCRYPTION / "metrics.json")
    comparison = read_json(COMPARISON / "comparison.json")
    return {
        "utility": f"{_utility(utility)}, {utility['patients']} test patients",
        **({"comparison": _comparison(comparison)} if comparison["enabled"] else {}),
        "privacy": _privacy(privacy),
        "attack": _attacks(attack),
        **({"encryption": _encryption(encryption)} if encryption["enabled"] else {}),
    }


def _utility(figures: Mapping[str, Any]) -> str:
    if "dice" not in figures:
        return f"MCC {_interval(figures['mcc'])}, AUC {_interval(figures['auc'])}"
    distance = figures["hd95"]["value"]
    return f"Dice {_interval(figures['dice'])}, 95 % of an outline within {distance:.1f} {figures['unit']}"


def _encryption(figures: Mapping[str, Any]) -> str:
    return (
        f"{figures['agreement']:.0%} agreement with the plaintext network on {figures['images']} images, "
        f"{figures['latency_s']:.2f} s an image"
    )


def _interval(metric: Mapping[str, Any]) -> str:
    if metric["low"] is None:
        return f"{metric['value']:.3f} (too few patients for an interval)"
    return f"{metric['value']:.3f} ({metric['low']:.3f} to {metric['high']:.3f})"


def _comparison(comparison: Mapping[str, Any]) -> str:
    (first, *_), (figure, *_) = comparison["differences"], comparison["figures"]
    name = {"mcc": "MCC", "dice": "Dice"}[figure]
    return f"{name} {first['label']}: {_interval(first[figure])}, mean over {len(comparison['seeds'])} seeds"


def _privacy(privacy: Mapping[str, Any]) -> str:
    if not privacy["enabled"]:
        return "none: differential privacy is off (privacy.enabled)"
    together = privacy["epsilon_all_runs"]  # None: a hospital's ledger could not be read
    told = "unknown" if together is None else f"{together:.2f}"
    before = together is None or together > privacy["epsilon"]
    earlier = f"; with all earlier runs on these patients {told}" if before else ""
    return f"ε = {privacy['epsilon']:.2f}, δ = {privacy['delta']:g} per {privacy['unit']} (this training{earlier})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _attacks(attack: Mapping[str, Any]) -> str:
    """The verdict, how often updates were traced, and the attacks that did not pass."""
    traced = attack["gradient_retrieval"]
    bound = traced["bound"]
    allowed = "nothing limits it" if bound is None else f"privacy allows {_percent(bound)}"
    left = [f"{name} {each['verdict']}" for name, each in attack.items() if isinstance(each, dict)]
    left = [each for each in left if not each.endswith("PASS")]
    return (
        f"{attack['verdict']} ({attack['budget']}): {_percent(traced['rate'])} of updates traced to their patient "
        f"({_percent(traced['low'])} to {_percent(traced['high'])}; {allowed})" + "".join(f"; {each}" for each in left)
    )
