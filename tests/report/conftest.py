"""Result files of one imagined version, made of seeded random numbers by the project's own writers where there are."""

import csv
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from primia.attacks import contract
from primia.attacks import results as attacks
from primia.attacks.subject import Subject
from primia.comparison.arms import arms_of
from primia.comparison.outcome import Comparison, Outcome
from primia.comparison.results import write_results
from primia.config import load_params
from primia.evaluation import metrics
from primia.evaluation.bootstrap import bootstrap_intervals
from primia.evaluation.classified import Classified
from primia.files import read_json, sha256_of_json, write_json
from primia.report.build import build_report

ROOT = Path(__file__).parents[2]
CLASSES = ("normal", "bacterial", "viral")
DIGEST = hashlib.sha256(b"model").hexdigest()


def write_rows(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def write_data(root):
    write_json(
        root / "data/raw/source.json",
        {
            "source": "phantom (seed 1)",
            "classes": CLASSES,
            "synthetic": True,
            "images": 2250,
            "patients": 900,
            "dropped_for_overlap": 3,
            "quarantined": 2,
            "duplicates": 0,
            "fingerprint": hashlib.sha256(b"images").hexdigest(),
        },
    )


def write_federation(results):
    rounds = np.arange(1, 11)
    mcc = 0.75 - 0.7 * np.exp(-rounds / 3) + np.random.default_rng(1).normal(0, 0.015, 10)
    write_rows(
        results / "federation/rounds.csv",
        ["round", "validation_score", "validation_accuracy", "validation_loss", "epsilon", "participants"],
        [(n, m, 0.7 + m / 4, 1 - m, 7.95 * (n / 10) ** 0.6, 3) for n, m in zip(rounds, mcc, strict=True)],
    )
    write_json(
        results / "federation/metrics.json",
        {"released_round": 9, "validation_score": float(mcc[8]), "rounds": 10, "seconds": 41.2},
    )
    write_json(
        results / "federation/privacy.json",
        {
            "enabled": True,
            "unit": "patient",
            "epsilon": 7.951,
            "epsilon_all_runs": 7.951,
            "delta": 1e-4,
            "target_epsilon": 8.0,
            "noise_multiplier": 1.4142,
            "clip_norm": 1.0,
            "sampling_rate": 0.25,
            "steps": 20,
            "trust": "local",
            "accountant": "the larger of PRV and PLD",
            "epsilon_by_accountant": {"prv": 7.95, "pld": 7.951, "renyi": 8.6},
            "noise_on_the_sum": 2.45,
            "statistics_noise": 20.0,
            "validation_noise": 2.1,
            "per_site": {
                "north": {"epsilon": 7.951, "steps": 20, "attempts": 20},
                "river": {"epsilon": 7.951, "steps": 20, "attempts": 20},
                "hill": {"epsilon": 7.58, "steps": 18, "attempts": 19},
            },
            "covers": ["the training patients of each hospital, for everyone who sees the released model"],
            "uncovered": ["validation patients, whose figures choose the released round"],
            "synthetic": True,
        },
    )


def write_evaluation(results):
    generator = np.random.default_rng(2)
    labels = generator.permutation(np.repeat(np.arange(3), (160, 170, 120)))
    logits = generator.normal(size=(450, 3)) + np.array([2.2, 1.4, 1.6])[labels, None] * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    patients = np.arange(450) * 2 // 5
    ends = bootstrap_intervals(probabilities, labels, patients, resamples=200, seed=1)
    figures = {
        name: {"value": value, "low": float(ends[name][0]), "high": float(ends[name][1])}
        for name, value in {
            "mcc": metrics.mcc(probabilities, labels),
            "accuracy": metrics.accuracy(probabilities, labels),
            "auc": metrics.auc(probabilities, labels, classes=CLASSES),
            "brier": metrics.brier(probabilities, labels),
            "calibration_error": metrics.calibration_error(probabilities, labels),
        }.items()
    }
    recall = metrics.recall(probabilities, labels, classes=CLASSES)
    figures["recall"] = {
        name: {"value": float(recall[c]), "low": float(ends["recall"][0][c]), "high": float(ends["recall"][1][c])}
        for c, name in enumerate(CLASSES)
    }
    figures |= {
        "images": 450,
        "patients": 180,
        "classes": list(CLASSES),
        "images_per_class": {"normal": 160, "bacterial": 170, "viral": 120},
        "majority_accuracy": metrics.majority_accuracy(labels),
        "bootstrap": 200,
        "model_digest": DIGEST,
    }
    Classified(
        figures=figures,
        probabilities=probabilities,
        labels=labels,
        classes=CLASSES,
        patients=patients,
    ).write(results / "evaluation")


def write_comparison(results):
    generator = np.random.default_rng(4)
    labels, patients = generator.permutation(np.repeat(np.arange(3), 50)), np.arange(150) // 2
    params = load_params(ROOT / "params.yaml")
    arms = arms_of(params)

    def outcome(skill, epsilon):
        logits = generator.normal(size=(150, 3)) + skill * np.eye(3)[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        return Outcome(answers=probabilities, round=7, epsilon=epsilon, seconds=12.5)

    outcomes = {
        arm.name: {seed: outcome(1.0 if arm.alone else 2.0, 7.95 if arm.private else None) for seed in (1, 2)}
        for arm in arms
    }
    write_results(
        results / "comparison",
        Comparison(arms=arms, seeds=(1, 2), outcomes=outcomes, labels=labels, patients=patients),
        params=params,
    )


def attack_report(name, *, round, rate, facts=None, pictures=None):
    def trials(rate):
        return contract.Trials(int(200 * rate + 0.5), 200, 1 / 64)

    outcome = contract.Outcome(
        deed="named the right patient",
        cases="updates",
        trials=trials(rate),
        bound=0.081,
        promise="The declared privacy of one step",
        positive=trials(1.0),
        negative=trials(0.015),
        convincing=0.9,
        facts=facts or {},
        pictures=pictures or {},
    )
    return contract.AttackReport(
        name=name,
        version=2,
        tier="worst case",
        round=round,
        verdict=contract.Verdict.PASS,
        reason=f"{100 * rate:.1f} % of 200 trials stay within the bound of 8.1 %; undefended, the attacker finds all.",
        outcome=outcome,
        confidence=0.999,
        budget="quick",
        seconds=6.1,
        model_digest=DIGEST,
        model_round={"first": 0, "released": 9}[round],
        data_hash=hashlib.sha256(b"candidates").hexdigest(),
        settings={"gallery": 64},
    )


def write_attack(results):
    generator = np.random.default_rng(4)
    curve = [
        {"noise_multiplier": sigma, "rate": rate, "low": low, "high": high, "bound": bound}
        for sigma, rate, low, high, bound in (
            (2.0, 0.03, 0.01, 0.06, 0.05),
            (0.25, 0.9, 0.85, 0.94, 0.97),
            (0.5, 0.3, 0.24, 0.37, 0.44),
            (1.0, 0.08, 0.05, 0.13, 0.124),
        )
    ]
    audits = [
        {"noise_multiplier": 8 / e, "epsilon": e, "epsilon_lower": 0.4 * e, "epsilon_gaussian": 0.9 * e, "ceiling": 5.8}
        for e in (1.0, 2.0, 4.0, 8.0)
    ]
    roc = [
        {"model": model, "fpr": x, "tpr": x**power}
        for model, power in (("released", 0.95), ("over-fitted", 0.3))
        for x in np.geomspace(1e-3, 1, 30)
    ]
    shown = ("original", "average", "undefended", "defended")
    pictures = {
        f"{row}_{name}": torch.from_numpy(generator.random((16, 16), dtype=np.float32))
        for row in ("best", "median")
        for name in shown
    }
    reports = [
        attack_report("gradient_retrieval", round="released", rate=0.035, facts={"curve": curve}),
        attack_report("gradient_retrieval", round="first", rate=0.035),
        attack_report("gradient_inversion", round="first", rate=0.02, pictures=pictures),
        attack_report("membership", round="released", rate=0.02, facts={"roc": roc}),
        attack_report("one_run_audit", round="released", rate=0.03, facts={"curve": audits}),
    ]
    about = Subject(
        model_digest=DIGEST,
        privacy_digest=sha256_of_json(read_json(results / "federation/privacy.json")),
        data_hash=reports[0].data_hash,
        required=tuple((report.name, report.round) for report in reports),
        pictures=True,
    )
    attacks.write_results(results / "attack", reports, about)


def write_encryption(results):
    generator = np.random.default_rng(3)
    clear = generator.normal(size=(16, 3)) * 3
    write_rows(
        results / "encryption/logits.csv",
        ["image", "class", "plaintext", "encrypted"],
        [
            (f"i{i}", name, x, x + generator.normal() * 2e-5)
            for i, row in enumerate(clear)
            for name, x in zip(CLASSES, row, strict=True)
        ],
    )
    write_json(
        results / "encryption/metrics.json",
        {
            "enabled": True,
            "agreement": 1.0,
            "logit_error": 6.3e-5,
            "latency_s": 0.38,
            "images": 16,
            "upload_bytes": 262_144,
            "reply_bytes": 90_112,
            "keys_bytes": 35_000_000,
            "network": "model itself",
            "data": "none",
            "covered": True,
            "covered_by": "post-processing of the private release",
            "student_mcc": 0.55,
            "student_auc": {"value": 0.86, "low": 0.84, "high": 0.88},
            "student_accuracy": {"value": 0.71, "low": 0.68, "high": 0.75},
            "student_teacher_agreement": 0.87,
            "teacher_digest": "ab" * 32,
            "model_digest": "cd" * 32,
            "front": "scattering",
            "pixels": 64,
        },
    )


@pytest.fixture(scope="session")
def written_release(tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    shutil.copy(ROOT / "params.yaml", root)
    write_data(root)
    for write in (write_federation, write_evaluation, write_comparison, write_attack, write_encryption):
        write(root / "results")
    return root


@pytest.fixture
def release_root(written_release, tmp_path):
    """A folder with params.yaml, data/raw/source.json and results/, all of one version; the test's own copy."""
    ignored = shutil.ignore_patterns("report")
    return Path(shutil.copytree(written_release, tmp_path / "release", ignore=ignored))


@pytest.fixture(scope="session")
def built_report(written_release):
    """The report about that version, made once; for tests that only read it."""
    target = written_release / "results/report"
    build_report(written_release, template=ROOT / "mlflow/model_card.md.j2", target=target)
    return target
