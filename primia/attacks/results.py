"""The files of results/attack: every attack's report, the worst of them in numbers, and the curve to plot."""

from collections.abc import Sequence
from pathlib import Path

from primia.attacks.contract import AttackReport, Verdict
from primia.attacks.run import CurvePoint
from primia.files import write_json, write_text

SCHEMA_VERSION = 1
_SEVERITY = (Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL)


def worst(reports: Sequence[AttackReport]) -> AttackReport:
    """Pick the report that speaks most against the model: FAIL, then INCONCLUSIVE, then the highest rate."""
    return max(reports, key=lambda report: (_SEVERITY.index(report.verdict), report.trials.rate))


def write_results(
    folder: Path, reports: Sequence[AttackReport], curve: Sequence[CurvePoint], *, model_digest: str
) -> None:
    """Write attack.json, metrics.json and retrieval.csv.

    Args:
        folder: results/attack.
        reports: gradient retrieval at every attacked round; that of the released model among them.
        curve: points for the plot of rate against noise multiplier; none without privacy.
        model_digest: digest of the released model, to which the verdict is bound.
    """
    assert model_digest in {report.model_digest for report in reports}
    decisive = worst(reports)
    low, high = decisive.trials.interval(decisive.confidence)
    write_json(
        folder / "attack.json",
        {
            "schema_version": SCHEMA_VERSION,
            "attacks": [report.to_json() for report in reports],
            "verdict": decisive.verdict.value,
            "model_digest": model_digest,
            "data_hash": decisive.data_hash,
        },
    )
    write_json(
        folder / "metrics.json",
        {
            "retrieval_rate": decisive.trials.rate,
            "retrieval_low": low,
            "retrieval_high": high,
            "retrieval_bound": decisive.bound,
            "verdict": decisive.verdict.value,
        },
    )
    lines = [f"{p.noise_multiplier},{p.trials.rate},{p.low},{p.high},{p.bound}" for p in curve]
    write_text(folder / "retrieval.csv", "\n".join(["noise_multiplier,rate,low,high,bound", *lines]) + "\n")
