"""The pictures of the attacks, one function each: what the files say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from primia.report.canvas import COLOURS, LIMIT, QUIET, Row, canvas, column, distinct

_COLUMNS = ("original", "average", "undefended", "defended")
_LEAST = 0.1  # ε; what is proved below is drawn there
_TITLES = ("original", "average image", "found without defence", "found with defence")


def draw_retrieval(path: Path, trials: Sequence[Row], *, chance: float) -> None:
    """Success of gradient retrieval against the noise multiplier σ, with intervals and the bound that DP promises."""
    rows = sorted(trials, key=lambda row: float(row["noise_multiplier"]))
    rate, place = column(rows, "rate"), np.arange(len(rows))
    whiskers = [np.maximum(rate - column(rows, "low"), 0), np.maximum(column(rows, "high") - rate, 0)]
    with canvas(path, size=(6.4, 3.4)) as figure:
        axes = figure.subplots()
        axes.hlines(column(rows, "bound"), place - 0.3, place + 0.3, color=LIMIT, linewidth=2, label="bound by DP")
        axes.errorbar(place, rate, yerr=whiskers, fmt="o", capsize=3, color=COLOURS[0], label="attack")
        axes.axhline(chance, color=QUIET, linestyle=":", label="guessing")
        axes.set_xticks(place, [f"{sigma:.3g}" for sigma in column(rows, "noise_multiplier")])
        axes.set(title="How often the attacker finds the patient in the gallery", xlabel="noise multiplier σ")
        axes.set(ylabel="retrieval rate", ylim=(0, 1.05))
        axes.legend(loc="upper right")


def draw_memberships(path: Path, points: Sequence[Row]) -> None:
    """True positive rate of the membership attack against its false positive rate, both logarithmic."""
    with canvas(path, size=(4.6, 4.4)) as figure:
        axes = figure.subplots()
        floor = 1e-3
        axes.plot([floor, 1], [floor, 1], color=QUIET, linestyle=":", label="guessing")
        for name in distinct(points, "model"):
            rows = [row for row in points if row["model"] == name]
            fpr, tpr = column(rows, "fpr"), column(rows, "tpr")
            axes.step(np.maximum(fpr, floor), np.maximum(tpr, floor), where="post", label=name)
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
        axes.set(title="Who was trained on?", xlabel="false positive rate", ylabel="true positive rate")
        axes.set_aspect("equal")
        axes.legend(loc="lower right")


def draw_audit(path: Path, rows: Sequence[Row]) -> None:
    """ε that an audit shows to be spent at least, against what was accounted, with what it could show at most."""
    ordered = sorted(rows, key=lambda row: float(row["epsilon"]))
    accounted = column(ordered, "epsilon")
    with canvas(path, size=(6.4, 3.8)) as figure:
        axes = figure.subplots()
        ends = (_LEAST, 1.3 * float(accounted.max()))
        axes.plot(ends, ends, color=LIMIT, label="accounted: an honest audit stays below")
        axes.axhline(
            float(column(ordered, "ceiling").max()), color=QUIET, linestyle="--", label="ceiling, no assumption"
        )
        for name, mark, colour, label in (
            ("epsilon_gaussian", "s", COLOURS[2], "audited, noise being Gaussian"),
            ("epsilon_lower", "o", COLOURS[0], "audited, no assumption"),
        ):
            axes.plot(accounted, np.maximum(column(ordered, name), _LEAST), mark, color=colour, label=label)
        axes.set(
            title="Privacy spent: audited against accounted", xlabel="accounted ε", ylabel="audited ε, lower bound"
        )
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
        axes.legend(loc="upper left")


def draw_reconstructions(path: Path, pictures: Mapping[str, Any], *, rows: Sequence[str]) -> None:
    """Original, average image and what the attacker found without and with defence, a row for each of `rows`.

    Args:
        path: of the PNG.
        pictures: arrays (pixels, pixels) in [0, 1] under `best_original` and so on.
        rows: `best`, `median`.
    """
    with canvas(path, size=(8.4, 2.3 * len(rows))) as figure:
        grid = figure.subplots(len(rows), len(_COLUMNS), squeeze=False)
        for line, name in zip(grid, rows, strict=True):
            for axes, column_name, title in zip(line, _COLUMNS, _TITLES, strict=True):
                axes.imshow(np.asarray(pictures[f"{name}_{column_name}"], dtype=float), cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                axes.set_title(title if name == rows[0] else "", fontsize=9)
            line[0].set_ylabel(f"{name} trial")
