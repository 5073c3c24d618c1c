"""The files of results/federation: rounds, privacy spent and not covered, and what every hospital charged for it."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from primia.federation.coordinator import FederationResult
from primia.federation.journal import record_line
from primia.federation.plan import PrivacyPlan
from primia.federation.weights import head_vector
from primia.files import write_csv, write_json, write_text
from primia.privacy.accounting import epsilons

# What differential privacy covers; without it a reviewer must know that nothing does.
COVERED = (
    "training of the model weights (training patients)",
    "pooled mean and standard deviation of the images (training patients)",
    "validation figures of every round and any choice of a round by them (validation patients)",
)
UNCOVERED = (
    "counts of images and patients in the record of the data (data/raw/source.json)",
    "figures on the test patients in the stages evaluate, attack and encrypt",
)


def write_results(folder: Path, result: FederationResult) -> None:
    """Write rounds.csv, rounds.jsonl, metrics.json, privacy.json and ledger/ into `folder`.

    ledger/<hospital>.jsonl holds the lines of this run, and ledger/transcript.json what the hospitals signed last: with
    it, `primia ledger verify --transcript` finds out whether a ledger was rolled back.
    """
    rows = [asdict(record) for record in result.records]
    write_csv(folder / "rounds.csv", rows[0], (row.values() for row in rows))
    write_text(folder / "rounds.jsonl", "".join(f"{record_line(session)}\n" for session in result.sessions))
    released = next(record for record in result.records if record.round == result.model.round)
    write_json(
        folder / "metrics.json",
        {
            "released_round": released.round,
            "validation_score": released.validation_score,
            "validation_accuracy": released.validation_accuracy,
            "rounds": len(rows),
            "seconds": result.seconds,
            "bytes_up_per_site_and_round": released.bytes_up_per_site,
            "stopped": result.stopped,
            "model_digest": result.model.digest(),
            "plan_digest": result.plan.digest(),
            "secure_aggregation": result.plan.secure_aggregation.scheme,
        },
    )
    write_json(folder / "privacy.json", _privacy(result))
    for hospital, ledger in result.ledgers.items():
        write_text(folder / "ledger" / f"{hospital}.jsonl", ledger.text)
    if result.transcript is not None:
        write_text(folder / "ledger" / "transcript.json", result.transcript.model_dump_json(indent=2) + "\n")


def _privacy(result: FederationResult) -> dict[str, Any]:
    """What was spent per patient; what all runs of a hospital whose ledger could not be read spent nobody knows."""
    plan = result.plan.privacy
    said: dict[str, Any] = {
        "enabled": plan is not None,
        "unit": "patient",
        "synthetic": result.plan.synthetic,
        "covers": list(COVERED) if plan is not None else [],
        "uncovered": [*([] if plan is not None else COVERED), *UNCOVERED],
    }
    if plan is None:
        return said
    per_site = {
        name: {"epsilon": ledger.epsilon, "steps": ledger.steps, "attempts": ledger.attempts}
        for name, ledger in result.ledgers.items()
    }
    ledgers = result.ledgers.values()
    steps = max((ledger.steps for ledger in ledgers), default=0)
    return said | {
        "trust": plan.trust,
        "accountant": "Rényi at integer orders" if result.plan.distributed else "the larger of PRV and PLD",
        "epsilon_by_accountant": _by_accountant(plan, steps=steps),
        "epsilon": result.epsilon,
        "epsilon_all_runs": None if result.unread_ledgers else max(ledger.epsilon_all_runs for ledger in ledgers),
        "unread_ledgers": list(result.unread_ledgers),
        "delta": plan.delta,
        "target_epsilon": plan.target_epsilon,
        "noise_multiplier": plan.noise_multiplier,
        "noise_on_the_sum": _noise_on_the_sum(result),
        "clip_norm": plan.clip_norm,
        "sampling_rate": plan.sampling_rate,
        "steps": steps,
        "local_steps": plan.local_steps,
        "views": plan.views,
        "learning_rate": plan.learning_rate,
        "expected_batch": plan.expected_batch,
        "hospitals": len(result.plan.hospitals),
        "threshold": result.plan.threshold,
        "curious": plan.curious,
        "statistics_noise": plan.statistics_noise,
        "validation_noise": plan.validation_noise,
        "per_site": per_site,
    }


def _by_accountant(plan: PrivacyPlan, *, steps: int) -> dict[str, float | None]:
    """ε of the training patients for `steps` of training by each accountant there is; without `steps` nothing."""
    if not steps:
        return {}
    trained = replace(plan.release("train"), steps=steps)
    accounts = epsilons([plan.release("statistics"), trained], delta=plan.delta)
    return {"prv": accounts.prv, "pld": accounts.pld, "renyi": accounts.renyi}


def _noise_on_the_sum(result: FederationResult) -> float:
    """Standard deviation of all hospitals' noise on one step's sum, in units of the clip norm."""
    plan = result.plan
    assert plan.privacy is not None
    if plan.distributed:
        return plan.noise_share(len(head_vector(result.model.network.head))).total_noise_multiplier
    return math.sqrt(len(plan.hospitals)) * plan.privacy.noise_multiplier
