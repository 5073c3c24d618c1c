"""The report of a model version: plots, model_card.md and one self-contained report.html."""

import base64
import csv
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from primia import files
from primia.errors import ConfigError, DataError
from primia.report import attack_plots, mask_plots, plots
from primia.report.card import render_card
from primia.review.gates import FILES, collect_facts

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.4rem; border-bottom: 1px solid #ddd; padding-bottom: .3rem; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; font-size: .92rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #eee; }
thead:not(:has(th:not(:empty))) { display: none; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; background: #f6f6f6; overflow-wrap: anywhere; }
pre { padding: .8rem; } img { max-width: 100%; margin: .5rem 1rem .5rem 0; vertical-align: top; }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } }
"""


def build_report(root: Path, *, template: Path, target: Path) -> None:
    """Write the report about the files below `root`; the same files give the same bytes.

    Args:
        root: folder that holds params.yaml, data/raw/source.json and results/.
        template: the model card's, in Jinja2.
        target: results/report; replaced as a whole or not at all.

    Raises:
        DataError: a result file is missing, broken, or lacks a figure.
        ConfigError: the template or params.yaml is missing or broken.
    """
    if not template.exists():
        raise ConfigError(f"{template} is missing; restore it from git.")
    facts = collect_facts(root)
    for section, path in FILES.items():
        _require(section in facts, root / path)
    with files.folder_in_progress(target) as folder:
        drawn = _draw(root / "results", facts, folder / "plots")
        card = render_card(template, facts=facts, plots=drawn)
        files.write_text(folder / "model_card.md", card)
        files.write_text(
            folder / "report.html", to_html(card, folder=folder, title=facts["params"]["registry"]["name"])
        )


def to_html(card: str, *, folder: Path, title: str) -> str:
    """One HTML file that loads nothing: the card, with its pictures (relative to `folder`) inside."""
    import markdown

    body = markdown.markdown(card, extensions=["tables"], output_format="html")
    body = re.sub(
        r'src="(plots/[a-z]+\.png)"',
        lambda match: f'src="data:image/png;base64,{base64.b64encode((folder / match[1]).read_bytes()).decode()}"',
        body,
    )
    # The policy keeps the promise even if markup slipped through: no script, nothing from the network.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}: report</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _draw(results: Path, facts: Mapping[str, Any], folder: Path) -> set[str]:
    """Draw every plot there is data for; returns their names."""
    privacy, federation, evaluation = facts["privacy"], facts["federation"], results / "evaluation"
    target_epsilon = privacy["target_epsilon"] if privacy["enabled"] else None
    plots.draw_rounds(
        folder / "rounds.png",
        _rows(results / "federation/rounds.csv"),
        score="Dice" if facts["params"]["task"] == "segmentation" else "MCC",
        released_round=federation["released_round"],
        target_epsilon=target_epsilon,
    )
    if facts["params"]["task"] == "segmentation":
        _draw_masks(evaluation, folder, structures=facts["evaluation"]["classes"][1:])
    else:
        plots.draw_roc(folder / "roc.png", _rows(evaluation / "roc.csv"))
        plots.draw_confusion(
            folder / "confusion.png", _rows(evaluation / "confusion.csv"), classes=facts["evaluation"]["classes"]
        )
        plots.draw_calibration(folder / "calibration.png", _rows(evaluation / "calibration.csv"))
    if facts["comparison"]["enabled"]:
        plots.draw_comparison(folder / "comparison.png", facts["comparison"])
    if facts["encryption"]["enabled"]:
        plots.draw_logits(folder / "logits.png", _rows(results / "encryption/logits.csv"))
    if target_epsilon is not None:
        spent = {name: site["epsilon"] for name, site in privacy["per_site"].items()}
        plots.draw_epsilon(folder / "epsilon.png", spent, target_epsilon=target_epsilon)
    _draw_attacks(results / "attack", facts["attack"]["attacks"], folder)
    return {path.stem for path in folder.iterdir()}


def _draw_masks(evaluation: Path, folder: Path, *, structures: Sequence[str]) -> None:
    from safetensors import safe_open

    mask_plots.draw_dice(folder / "dice.png", _rows(evaluation / "patients.csv"))
    _require((evaluation / "pictures.safetensors").exists(), evaluation / "pictures.safetensors")
    with safe_open(evaluation / "pictures.safetensors", framework="numpy") as stream:
        shown = json.loads(stream.metadata()["shown"])
        pictures = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (no mapping)
    if shown:  # nobody else may be
        mask_plots.draw_overlays(folder / "overlays.png", shown, pictures, structures=structures)


def _draw_attacks(results: Path, attacks: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Draw what the attacks left points or images for: without differential privacy there is no noise to vary."""
    from safetensors.numpy import load_file

    chance = {attack["name"]: attack["chance"] for attack in attacks}
    if curve := _rows(results / "retrieval.csv"):
        attack_plots.draw_retrieval(folder / "retrieval.png", curve, chance=chance["gradient_retrieval"])
    if points := _rows(results / "roc.csv"):
        attack_plots.draw_memberships(folder / "membership.png", points)
    if audits := _rows(results / "audit.csv"):
        attack_plots.draw_audit(folder / "audit.png", audits)
    _require((results / "pictures.safetensors").exists(), results / "pictures.safetensors")
    pictures = load_file(results / "pictures.safetensors")
    for place in ("first", "released"):
        prefix = f"gradient_inversion.{place}."
        found = {name.removeprefix(prefix): array for name, array in pictures.items() if name.startswith(prefix)}
        if found:
            attack_plots.draw_reconstructions(folder / f"inversion{place}.png", found, rows=("best", "median"))


def _rows(path: Path) -> list[dict[str, str]]:
    _require(path.exists(), path)
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def _require(present: bool, path: Path) -> None:
    if not present:
        raise DataError(f"{path} is missing, and the report needs it; run the stage that writes it (dvc repro).")
