"""The pictures of a segmentation, one function each: what the files say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from primia.report.canvas import COLOURS, QUIET, Row, canvas, distinct

_MAPS = (("image", "image"), ("truth", "truth"), ("prediction", "prediction"), ("doubt", "uncertainty"))

_OPAQUE = 0.55  # the image shows through


def draw_dice(path: Path, patients: Sequence[Row]) -> None:
    """Dice of every patient by structure, with the mean of each; none where neither map has the structure."""
    structures = distinct(patients, "structure")
    with canvas(path, size=(6.4, 1.2 + 0.7 * len(structures))) as figure:
        axes = figure.subplots()
        for place, name in enumerate(structures):
            dice = np.sort([float(row["dice"]) for row in patients if row["structure"] == name and row["dice"]])
            # Spread by rank within a band, so that equal values do not hide one another; no chance in a report.
            height = place + 0.5 * ((np.arange(len(dice)) * 0.618) % 1 - 0.5)
            axes.plot(dice, height, "o", markersize=4, alpha=0.6, color=COLOURS[place % len(COLOURS)])
            axes.plot([dice.mean()] * 2, [place - 0.35, place + 0.35], color=COLOURS[place % len(COLOURS)], linewidth=2)
        axes.set_yticks(range(len(structures)), structures)
        axes.set(title="Dice of every test patient, and the mean", xlabel="Dice", xlim=(-0.02, 1.02))
        axes.set_ylim(len(structures) - 0.5, -0.5)


def draw_overlays(
    path: Path, shown: Sequence[Mapping[str, Any]], pictures: Mapping[str, Any], *, structures: Sequence[str]
) -> None:
    """Image, truth, prediction and uncertainty, a row for each patient shown, and below them what the colours mean.

    Args:
        path: of the PNG.
        shown: name, patient number and Dice of each row.
        pictures: arrays (height, width) under `0.image`, `0.truth`, `0.prediction`, `0.doubt` and so on.
        structures: names of the classes 1, 2 and so on.
    """
    from matplotlib.patches import Patch

    with canvas(path, size=(8.4, 2.2 * len(shown) + 0.3)) as figure:
        grid = figure.subplots(len(shown), len(_MAPS), squeeze=False)
        for number, (line, told) in enumerate(zip(grid, shown, strict=True)):
            image = np.asarray(pictures[f"{number}.image"], dtype=float)
            for axes, (what, title) in zip(line, _MAPS, strict=True):
                values = np.asarray(pictures[f"{number}.{what}"], dtype=float)
                if what == "doubt":
                    axes.imshow(values, cmap="magma", vmin=0, vmax=1)
                else:
                    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
                if what in ("truth", "prediction"):
                    axes.imshow(_coloured(values))
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(False)
                axes.set_title(title if number == 0 else "", fontsize=9)
            line[0].set_ylabel(f"{told['name']}\nDice {told['dice']:.2f}", color=QUIET)
        patches = [
            Patch(color=COLOURS[number % len(COLOURS)], alpha=_OPAQUE, label=name)
            for number, name in enumerate(structures)
        ]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches))


def _coloured(classes: Any) -> Any:
    """Classes (height, width) as half transparent colours (height, width, 4); the background shows through."""
    from matplotlib.colors import to_rgba

    colours = [(0.0, 0.0, 0.0, 0.0)]
    colours += [to_rgba(COLOURS[(number - 1) % len(COLOURS)], _OPAQUE) for number in range(1, int(classes.max()) + 1)]
    return np.asarray(colours)[classes.astype(int)]
