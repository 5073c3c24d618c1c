"""The files of results/attack: every attack's report, the worst in numbers, and what the pictures are drawn from."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save

from primia.attacks.contract import AttackReport, Verdict
from primia.attacks.document import AttackDocument
from primia.attacks.subject import UNCOVERED, Subject
from primia.files import write_bytes, write_csv, write_json

FILES = ("attack.json", "metrics.json", "retrieval.csv", "audit.csv", "roc.csv", "pictures.safetensors")
_SEVERITY = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)
_RETRIEVAL = "gradient_retrieval"
# Files of points, one row each, from the facts of the attacks that draw them.
_CURVES = {
    "retrieval.csv": ("curve", _RETRIEVAL, ("noise_multiplier", "rate", "low", "high", "bound")),
    "audit.csv": (
        "curve",
        "one_run_audit",
        ("noise_multiplier", "epsilon", "epsilon_lower", "epsilon_gaussian", "ceiling"),
    ),
    "roc.csv": ("roc", "membership", ("model", "fpr", "tpr")),
}


def worst(reports: Iterable[AttackReport]) -> AttackReport:
    """Pick the report that speaks most against the model: FAIL, then INCONCLUSIVE, then the highest rate."""
    return max(reports, key=lambda report: (_SEVERITY.index(report.verdict), report.outcome.trials.rate))


def write_results(folder: Path, reports: Sequence[AttackReport], about: Subject) -> None:
    """Write attack.json, metrics.json, the curves as CSV, and pictures.safetensors.

    Args:
        folder: results/attack.
        reports: at least one.
        about: what they are bound to; where it allows no pictures, pictures.safetensors holds none.
    """
    by_name: dict[str, list[AttackReport]] = {}
    for report in reports:
        by_name.setdefault(report.name, []).append(report)
    decisive = {name: worst(group) for name, group in by_name.items()}
    document = AttackDocument.model_validate(
        {
            "budget": reports[0].budget,
            "confidence": min(report.confidence for report in reports),
            "gallery": min(report.settings["gallery"] for report in reports),
            "attacks": [_finite(report.to_json()) for report in reports],
            "verdict": worst(reports).verdict,
            "verdicts": {name: report.verdict for name, report in decisive.items()},
            "required": list(dict.fromkeys(name for name, _ in about.required)),
            "complete": set(about.required) <= {(report.name, report.round) for report in reports},
            "uncovered": [each for each in about.uncovered if each != UNCOVERED or "membership" in by_name],
            "model_digest": about.model_digest,
            "attacked_digests": {report.round: report.model_digest for report in reports},
            "privacy_digest": about.privacy_digest,
            "data_hash": about.data_hash,
        }
    )
    write_json(folder / "attack.json", document.model_dump(mode="json"))
    figures = {name: _figures(report) for name, report in decisive.items()}
    write_json(folder / "metrics.json", {"verdict": document.verdict.value, "budget": document.budget, **figures})
    for file, (fact, name, columns) in _CURVES.items():
        rows = [row for report in by_name.get(name, []) for row in report.outcome.facts.get(fact, [])]
        write_csv(folder / file, columns, ([row[column] for column in columns] for row in rows))
    pictures = {
        f"{report.name}.{report.round}.{name}": array.clone()
        for report in reports
        if about.pictures
        for name, array in report.outcome.pictures.items()
    }
    write_bytes(folder / "pictures.safetensors", save(pictures))


def _figures(report: AttackReport) -> dict[str, Any]:
    """What `dvc metrics show` and MLflow tell of an attack: that of the worst weights attacked."""
    low, high = report.outcome.trials.interval(report.confidence)
    return {
        "verdict": report.verdict.value,
        "rate": report.outcome.trials.rate,
        "low": low,
        "high": high,
        "bound": report.outcome.bound,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
