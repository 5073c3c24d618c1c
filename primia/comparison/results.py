"""The files of results/comparison: every figure with its interval, and what the comparison itself released."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from primia.comparison.arms import ALONE, differences_of, label_of
from primia.comparison.outcome import Comparison, Outcome
from primia.comparison.statistics import Score, figures_of, mean_score, scores_of
from primia.config import Params
from primia.files import write_csv, write_json

# The comparison trains without privacy, reads every hospital's images in one place, and publishes what came of it.
UNCOVERED = ("test figures of every arm of the comparison, trained on patients' images outside any privacy budget",)
_COLUMNS = ("arm", "seed", "round", "epsilon", "seconds")

Scores = Mapping[str, Score]  # by name of the figure


def write_results(folder: Path, comparison: Comparison, *, params: Params) -> None:
    """Write comparison.json, comparison.csv (one row for each arm and seed) and metrics.json into `folder`."""
    figures = figures_of(comparison.labels)
    scores = {
        arm.name: {
            seed: scores_of(outcome.answers, comparison.labels, comparison.patients, settings=params.evaluation)
            for seed, outcome in comparison.outcomes[arm.name].items()
        }
        for arm in comparison.arms
    }
    means = {name: _mean(by_seed.values()) for name, by_seed in scores.items()}
    means[ALONE] = _mean(means[arm.name] for arm in comparison.arms if arm.alone)
    differences = [
        {
            "name": question.name,
            "label": f"{label_of(question.arm)} − {label_of(question.minus)}",
            "shows": question.shows,
            **_intervals({name: means[question.arm][name] - means[question.minus][name] for name in figures}),
        }
        for question in differences_of(comparison.arms)
    ]
    write_json(
        folder / "comparison.json",
        {
            "enabled": True,
            "figures": list(figures),
            "seeds": list(comparison.seeds),
            "bootstrap": params.evaluation.bootstrap,
            "images": len(comparison.labels),
            "patients": len(np.unique(comparison.patients)),
            "arms": [
                {
                    "name": arm.name,
                    "label": label_of(arm.name),
                    "masked": arm.masked,
                    "private": arm.private,
                    "epsilon": _largest_epsilon(comparison.outcomes[arm.name].values()),
                    "by_seed": [scores[arm.name][seed][figures[0]].value for seed in comparison.seeds],
                    **_intervals(means[arm.name]),
                }
                for arm in comparison.arms
            ],
            "alone": _intervals(means[ALONE]),
            "differences": differences,
            "uncovered": list(UNCOVERED),
            "seconds": sum(outcome.seconds for by in comparison.outcomes.values() for outcome in by.values()),
        },
    )
    columns = (*_COLUMNS, *(f"{figure}{end}" for figure in figures for end in ("", "_low", "_high")))
    write_csv(folder / "comparison.csv", columns, _rows(comparison, scores))
    shown = {ALONE, *(arm.name for arm in comparison.arms if not arm.alone)}
    write_json(
        folder / "metrics.json",
        {
            "enabled": True,
            figures[0]: {name: means[name][figures[0]].value for name in shown},
            f"{figures[0]}_difference": {difference["name"]: difference[figures[0]] for difference in differences},
        },
    )


def write_skipped(folder: Path) -> None:
    """Write the same files when no comparison was asked for."""
    write_json(folder / "comparison.json", {"enabled": False, "uncovered": []})
    write_csv(folder / "comparison.csv", _COLUMNS, ())
    write_json(folder / "metrics.json", {"enabled": False})


def _mean(many: Iterable[Scores]) -> dict[str, Score]:
    each = list(many)
    return {name: mean_score([scores[name] for scores in each]) for name in each[0]}


def _intervals(scores: Scores) -> dict[str, dict[str, float]]:
    return {name: score.interval() for name, score in scores.items()}


def _largest_epsilon(outcomes: Iterable[Outcome]) -> float | None:
    return max((outcome.epsilon for outcome in outcomes if outcome.epsilon is not None), default=None)


def _rows(comparison: Comparison, scores: Mapping[str, Mapping[int, Scores]]) -> Iterator[list[object]]:
    for name, by_seed in scores.items():
        for seed, figures in by_seed.items():
            outcome = comparison.outcomes[name][seed]
            ends = [score.interval()[end] for score in figures.values() for end in ("value", "low", "high")]
            told = [outcome.round, "" if outcome.epsilon is None else outcome.epsilon, f"{outcome.seconds:.1f}"]
            yield [name, seed, *told, *(f"{value:.6f}" for value in ends)]
