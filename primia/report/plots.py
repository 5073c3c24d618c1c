"""The pictures of the report, one function each: what the files say.

Every function takes rows as `csv.DictReader` gives them (or a figure read from JSON) and writes one PNG.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from primia.report.canvas import COLOURS, INK, LIMIT, QUIET, Row, canvas, column, distinct


def draw_rounds(
    path: Path, rounds: Sequence[Row], *, score: str, released_round: int, target_epsilon: float | None
) -> None:
    """Validation score, and below it ε spent so far against its target (None: without differential privacy).

    `score` names it: MCC, or Dice of masks.
    """
    number, reached = column(rounds, "round"), column(rounds, "validation_score")
    with canvas(path, size=(6.4, 2.6 if target_epsilon is None else 4.4)) as figure:
        axes = figure.subplots(1 if target_epsilon is None else 2, 1, sharex=True, squeeze=False)[:, 0]
        axes[0].plot(number, reached, marker="o", markersize=4)
        released = number == released_round
        axes[0].plot(
            number[released], reached[released], "o", markersize=9, fillstyle="none", color=INK, label="released round"
        )
        noised = "" if target_epsilon is None else ", with the noise of privacy"
        axes[0].set(title=f"Validation {score} after each round{noised}", ylabel=score)
        axes[0].legend(loc="lower right")
        if target_epsilon is not None:
            axes[1].plot(number, column(rounds, "epsilon"), marker="o", markersize=4, color=COLOURS[1])
            axes[1].axhline(target_epsilon, color=LIMIT, linestyle="--", label=f"budget ε = {target_epsilon:g}")
            axes[1].set(title="Privacy spent per patient (largest over the hospitals)", ylabel="ε")
            axes[1].set_ylim(0, None)
            axes[1].legend(loc="lower right")
        axes[-1].set_xlabel("round")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)


def draw_roc(path: Path, curves: Sequence[Row]) -> None:
    """ROC curve of each class against the rest, with its area."""
    with canvas(path, size=(4.6, 4.4)) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":", label="guessing")
        for name in distinct(curves, "class"):
            points = [row for row in curves if row["class"] == name]
            fpr, tpr = column(points, "fpr"), column(points, "tpr")
            axes.plot(fpr, tpr, label=f"{name} (AUC {np.trapezoid(tpr, fpr):.3f})")
        axes.set(title="ROC, one class against the rest", xlabel="false positive rate", ylabel="true positive rate")
        axes.set_aspect("equal")
        axes.legend(loc="lower right")


def draw_confusion(path: Path, answers: Sequence[Row], *, classes: Sequence[str]) -> None:
    """Counts of images by actual and predicted class; the shade is the share of the actual class."""
    counts = np.zeros((len(classes), len(classes)), dtype=int)
    for row in answers:
        counts[classes.index(row["actual"]), classes.index(row["predicted"])] += 1
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 2.6 + 0.6 * len(classes)
    with canvas(path, size=(side, side)) as figure:
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.grid(False)
        for (actual, predicted), count in np.ndenumerate(counts):
            share = shares[actual, predicted]
            colour = "white" if share > 0.5 else INK
            axes.text(predicted, actual, f"{count}\n{share:.0%}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(classes)), classes, rotation=30 if len(classes) > 3 else 0)
        axes.set_yticks(range(len(classes)), classes)
        axes.set(title="Images by class", xlabel="predicted", ylabel="actual")


def draw_calibration(path: Path, bins: Sequence[Row]) -> None:
    """Accuracy against confidence, and how many images lie in each bin."""
    confidence, count = column(bins, "confidence"), column(bins, "count")
    with canvas(path, size=(4.6, 5.0)) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.plot([0, 1], [0, 1], color=QUIET, linestyle=":", label="perfectly calibrated")
        above.plot(confidence, column(bins, "accuracy"), marker="o", markersize=4, label="model")
        above.set(title="Is the model right as often as it is sure?", ylabel="accuracy", ylim=(0, 1.02))
        above.legend(loc="upper left")
        below.bar(confidence, count, width=0.05, color=COLOURS[0])
        below.set(xlabel="confidence in the predicted class", ylabel="images", xlim=(0, 1.02))


def draw_epsilon(path: Path, per_site: Mapping[str, float], *, target_epsilon: float) -> None:
    """ε spent at each hospital against the budget."""
    with canvas(path, size=(6.4, 1.1 + 0.4 * len(per_site))) as figure:
        axes = figure.subplots()
        bars = axes.barh(list(per_site), list(per_site.values()), height=0.55)
        axes.bar_label(bars, fmt="%.3f", label_type="center", color="white")
        axes.axvline(target_epsilon, color=LIMIT, linestyle="--", label=f"budget {target_epsilon:g}")
        axes.set(title="Privacy spent per patient at each hospital", xlabel="ε")
        axes.set_xlim(0, 1.1 * max(target_epsilon, *per_site.values()))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def draw_logits(path: Path, logits: Sequence[Row]) -> None:
    """Logits computed on ciphertexts against those in clear, and their difference, which is too small to see there."""
    with canvas(path, size=(7.2, 3.4)) as figure:
        left, right = figure.subplots(1, 2)
        ends = [column(logits, "plaintext").min(), column(logits, "plaintext").max()]
        left.plot(ends, ends, color=QUIET, linestyle=":")
        for name in distinct(logits, "class"):
            rows = [row for row in logits if row["class"] == name]
            clear, encrypted = column(rows, "plaintext"), column(rows, "encrypted")
            left.plot(clear, encrypted, "o", markersize=4, alpha=0.8, label=name)
            right.plot(clear, encrypted - clear, "o", markersize=4, alpha=0.8)
        right.axhline(0, color=QUIET, linestyle=":")
        right.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        left.set(title="Logits under encryption", xlabel="in clear", ylabel="encrypted")
        right.set(title="Encryption noise", xlabel="in clear", ylabel="encrypted − in clear")
        left.legend(loc="upper left")


def draw_comparison(path: Path, comparison: Mapping[str, Any]) -> None:
    """The deciding figure of every arm, seeds as dots, and its paired differences; `comparison` is comparison.json."""
    arms, differences, figure_name = comparison["arms"], comparison["differences"], comparison["figures"][0]
    said = figure_name.upper() if figure_name == "mcc" else figure_name.capitalize()
    rows = max(len(arms), len(differences))
    with canvas(path, size=(9.6, 1.4 + 0.36 * rows)) as figure:
        left, right = figure.subplots(1, 2)
        _draw_intervals(left, [arm[figure_name] for arm in arms], names=[arm["label"] for arm in arms])
        for place, arm in enumerate(arms):
            seeds = arm["by_seed"]
            left.plot(seeds, [place] * len(seeds), ".", markersize=4, color=QUIET, zorder=3)
        _draw_intervals(
            right,
            [difference[figure_name] for difference in differences],
            names=[difference["label"].replace(" − ", "\n− ") for difference in differences],
        )
        right.axvline(0, color=QUIET, linestyle=":")
        left.set(title=f"{said} on the same test patients", xlabel=said)
        right.set(title="Paired differences", xlabel=f"difference of {said}")


def _draw_intervals(axes: Any, figures: Sequence[Mapping[str, float]], *, names: Sequence[str]) -> None:
    """Values with their intervals, the first on top."""
    value, low, high = (np.array([figure[end] for figure in figures]) for end in ("value", "low", "high"))
    whiskers = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
    axes.errorbar(value, np.arange(len(names)), xerr=whiskers, fmt="o", capsize=3, color=COLOURS[0])
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
