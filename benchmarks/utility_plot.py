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
    """Draw one line for each model, trust model and start through the means over seeds; small dots are single seeds.

    Bars are the 95 % bootstrap over test patients (of the MCC), averaged over seeds.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": 9, "savefig.dpi": 110, "figure.constrained_layout.use": True}):
        figure = Figure(figsize=(10, 4.6))
        left, right = figure.subplots(1, 2)
        _draw(left, cells, "mcc", title="MCC, three classes")
        left.axhline(EXPERT_MCC, color="#999999", linestyle="--", label="human expert")
        _draw(right, cells, "pneumonia_auc", title="AUC, pneumonia against normal")
        xs = [NO_PRIVACY_AT if epsilon is None else epsilon for epsilon, _ in DEEPEE_AUC]
        right.plot(xs, [auc for _, auc in DEEPEE_AUC], "k^", label="deepee, ε per image")
        for axes in (left, right):
            axes.set(xscale="log", xlabel="ε per patient")
            axes.set_xticks([1, 3, 8, NO_PRIVACY_AT], ["1", "3", "8", "none"])
            axes.minorticks_off()
        lines = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in (left, right))
        named = {label: line for pairs in lines for line, label in pairs}
        figure.legend(named.values(), named, loc="outside lower center", ncols=4, fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None})


def _draw(axes: Any, cells: Sequence[Mapping[str, Any]], key: str, *, title: str) -> None:
    for number, (label, points) in enumerate(sorted(_lines(cells).items())):
        places = sorted(points)
        shifted = [at * 1.03**number for at in places]  # lines must not hide each other's bars
        centres = [mean(cell[key] for cell in points[at]) for at in places]
        colour = f"C{number}"
        if key == "mcc":
            below = [mean(cell["mcc"] - cell["low"] for cell in points[at]) for at in places]
            above = [mean(cell["high"] - cell["mcc"] for cell in points[at]) for at in places]
            axes.errorbar(shifted, centres, yerr=[below, above], fmt="none", capsize=3, linewidth=1, color=colour)
        axes.plot(shifted, centres, marker="o", markersize=5, linewidth=1, color=colour, label=label)
        for x, at in zip(shifted, places, strict=True):
            axes.plot([x] * len(points[at]), [cell[key] for cell in points[at]], ".", markersize=3, color=colour)
    axes.set_title(title)


def _lines(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[float, list[Mapping[str, Any]]]]:
    """Cells by line and place on the axis; what has no privacy belongs to the lines of both trust models."""
    lines: dict[str, dict[float, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    private = [cell for cell in cells if cell["epsilon"] is not None]
    for cell in cells:
        start = ", pretrained" if cell["pretrain"] == "phantom" else ""
        trusts = {one["trust"] for one in private if one["architecture"] == cell["architecture"]} or {cell["trust"]}
        for trust in trusts if cell["epsilon"] is None else {cell["trust"]}:
            at = NO_PRIVACY_AT if cell["epsilon"] is None else cell["epsilon"]
            lines[f"{cell['architecture']}, {trust}{start}"][at].append(cell)
    return lines
