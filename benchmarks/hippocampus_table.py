"""The table of the hippocampus benchmark, and what federation and privacy cost beside training in one place."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from statistics import mean
from typing import Any

import numpy as np

from primia.comparison.arms import ALONE, CENTRALISED, FEDERATED
from primia.evaluation.bootstrap import mean_intervals

RESAMPLES = 10_000
_HEADER = (
    "| network | trained | ε | seeds | Dice | front | back | HD95, mm | surface Dice | weights | rounds | s a round "
    "| kB a round |"
)
_WAYS = (CENTRALISED, ALONE, FEDERATED)

Cells = Iterable[Mapping[str, Any]]


def table(cells: Cells) -> str:
    """Markdown: a row for all seeds of a training, hospitals alone as one row; brackets are 95 % over test patients.

    Args:
        cells: the values of the benchmark's file.
    """
    rows = [_HEADER, "|---" * (_HEADER.count("|") - 1) + "|"]
    for (network, way, epsilon), alike in _grouped(cells).items():
        dice = _interval(_mean_of_patients(alike))
        structures = [_mean(alike, "dice_by_structure", name) for name in alike[0]["dice_by_structure"]]
        sent = alike[0]["bytes_per_round"]
        figures = [
            network,
            f"{way}, mean of {len(alike)}" if way == ALONE else way,
            "none" if epsilon is None else f"{max(cell['epsilon_spent'] for cell in alike):.2f}",
            len({cell["seed"] for cell in alike}),
            dice,
            *(f"{value:.3f}" for value in structures),
            f"{_mean(alike, 'hd95'):.1f}",
            f"{_mean(alike, 'surface_dice'):.3f}",
            f"{alike[0]['parameters']:,}",
            alike[0]["rounds"],
            f"{mean(cell['seconds_per_round'] for cell in alike):.0f}",
            "–" if sent is None else f"{sent / 1000:,.0f}",
        ]
        rows.append("| " + " | ".join(map(str, figures)) + " |")
    return "\n".join(rows)


def differences(cells: Cells) -> str:
    """Markdown: what federation and privacy change in the Dice of a network, patient by patient.

    A line for each training without privacy, less that in one place, and for each budget, less the same without one.
    """
    grouped = _grouped(cells)
    lines = []
    for (network, way, epsilon), alike in grouped.items():
        less = CENTRALISED if epsilon is None else way
        other = grouped.get((network, less, None))
        if other is None or (way, epsilon) == (CENTRALISED, None):
            continue
        what = way if epsilon is None else f"ε = {epsilon:g}"
        changed = _interval(_mean_of_patients(alike) - _mean_of_patients(other), sign="+")
        lines.append(f"- {network}, {what} less {less if epsilon is None else 'none'}: {changed}")
    return "\n".join(lines)


def _grouped(cells: Cells) -> dict[tuple[str, str, float | None], list[Mapping[str, Any]]]:
    found: dict[tuple[str, str, float | None], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in cells:
        way, _, _ = cell["way"].partition(":")
        found[cell["architecture"], way, cell["epsilon"]].append(cell)
    networks = list(dict.fromkeys(network for network, _, _ in found))
    return dict(
        sorted(
            found.items(),
            key=lambda group: (networks.index(group[0][0]), _WAYS.index(group[0][1]), -(group[0][2] or np.inf)),
        )
    )


def _mean_of_patients(cells: list[Mapping[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Dice of each test patient, the mean over cells."""
    return np.mean([cell["dice_of_patients"] for cell in cells], axis=0, dtype=np.float64)


def _interval(values: np.ndarray[Any, np.dtype[np.float64]], *, sign: str = "") -> str:
    told = mean_intervals(values[:, None], resamples=RESAMPLES, seed=1)[0]
    return "{value:{sign}.3f} ({low:{sign}.3f} to {high:{sign}.3f})".format(sign=sign, **told)


def _mean(cells: list[Mapping[str, Any]], *keys: str) -> float:
    values = []
    for cell in cells:
        figure: Any = cell
        for key in keys:
            figure = figure[key]
        values.append(figure["value"])
    return float(np.mean([np.nan if value is None else value for value in values]))
