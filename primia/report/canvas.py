"""What all pictures of the report share: one quiet, colour-blind safe style, and rows of a CSV file as columns."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Row = Mapping[str, str]

# Okabe & Ito 2008, without the yellow that vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, QUIET, LIMIT = "#333333", "#999999", "#B22222"
_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": "#E8E8E8",
    "legend.frameon": False,
    "savefig.dpi": 110,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def canvas(path: Path, *, size: tuple[float, float]) -> Iterator[Any]:
    """Give a styled figure, and write it to `path` without a date or a program name: equal rows, equal bytes."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        figure = Figure(figsize=size)  # no pyplot: no global state, and always the Agg canvas
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})


def column(rows: Sequence[Row], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One column as numbers."""
    return np.array([float(row[name]) for row in rows])


def distinct(rows: Sequence[Row], name: str) -> list[str]:
    """The values of a column, each once, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))
