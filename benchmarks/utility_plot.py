"""The plot of the utility benchmark: MCC and pneumonia AUC against the privacy budget."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

EXPERT_MCC = 0.499  # human expert on the same 624 test images (Kaissis et al. 2021)
# Pneumonia against normal with ImageNet weights and privacy per image, not per patient (deepee, Ziller et al. 2021).
DEEPEE_AUC = ((0.5, 0.848), (None, 0.961))
NO_PRIVACY_AT = 30.0  # where on the logarithmic axis the models without privacy stand


def draw_utility(path: Path, cells: Sequence[Mapping[str, Any]]) -> None:
    """Draw one line for each model, trust model and start; points are means over seeds, bars their extremes."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "savefig.dpi": 110, "figure.constrained_layout.use": True}):
        figure = Figure(figsize=(10, 4.2))
        for axes, key, title in zip(
            figure.subplots(1, 2),
            ("mcc", "pneumonia_auc"),
            ("MCC, three classes", "AUC, pneumonia against normal"),
            strict=True,
        ):
            for label, points in sorted(_lines(cells, key).items()):
                places = sorted(points)
                centres = [mean(points[at]) for at in places]
                spread = [
                    [centre - min(points[at]) for at, centre in zip(places, centres, strict=True)],
                    [max(points[at]) - centre for at, centre in zip(places, centres, strict=True)],
                ]
                axes.errorbar(places, centres, yerr=spread, marker="o", capsize=3, linewidth=1, label=label)
            if key == "mcc":
                axes.axhline(EXPERT_MCC, color="#999999", linestyle="--", label="human expert")
            else:
                xs = [NO_PRIVACY_AT if epsilon is None else epsilon for epsilon, _ in DEEPEE_AUC]
                axes.plot(xs, [auc for _, auc in DEEPEE_AUC], "k^", label="deepee, per image")
            axes.set(xscale="log", title=title, xlabel="ε per patient")
            axes.set_xticks([1, 3, 8, NO_PRIVACY_AT], ["1", "3", "8", "none"])
            axes.minorticks_off()
            axes.legend(fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})


def _lines(cells: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[float, list[float]]]:
    """Values by line and place on the axis; what has no privacy belongs to the lines of both trust models."""
    trusts = sorted({cell["trust"] for cell in cells if cell["epsilon"] is not None}) or [""]
    lines: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        start = ", pretrained" if cell["pretrain"] == "phantom" else ""
        for trust in trusts if cell["epsilon"] is None else [cell["trust"]]:
            at = NO_PRIVACY_AT if cell["epsilon"] is None else cell["epsilon"]
            lines[f"{cell['architecture']}, {trust}{start}"][at].append(cell[key])
    return lines
