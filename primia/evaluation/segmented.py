"""A model that marks structures, on the test patients: hard Dice and surface distances of every patient, in 3-D.

Never a soft Dice, and never one over a batch: a patient is judged on all of their slices together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia import files
from primia.config import Evaluation
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.evaluation.bootstrap import mean_intervals
from primia.evaluation.common import common_figures, finite
from primia.evaluation.metrics import Floats
from primia.evaluation.pictures import PICTURES, Overlay, overlays, save_overlays
from primia.evaluation.surfaces import surface_distances
from primia.models.overlap import patient_dice
from primia.models.released import ReleasedModel

_BATCH = 64
_FEWEST = 5  # patients with a structure: an interval of fewer would be far too narrow
_FIGURES = ("dice", "hd95", "surface_dice")


@dataclass(frozen=True)
class Segmented:
    """What the model marked and how good that was; `figures` is the content of metrics.json.

    `dice`, `hd95` and `surface_dice` are of each patient, in the order of their numbers, and structure, (patients,
    structures), NaN where the structure is in neither map. `hospitals` are theirs, (patients,), "" where unknown.
    `shown` is empty where nobody may be shown.
    """

    figures: dict[str, Any]
    dice: Floats
    hd95: Floats
    surface_dice: Floats
    patients: Sequence[int]
    hospitals: Sequence[str]
    structures: tuple[str, ...]
    shown: Sequence[Overlay]

    @property
    def answers(self) -> Floats:
        """What a comparison keeps of a model: Dice, (patients, structures), NaN as there."""
        return self.dice

    def write(self, folder: Path) -> None:
        """Write metrics.json, patients.csv and pictures.safetensors; `folder` is replaced as a whole or not at all."""
        with files.folder_in_progress(folder) as progress:
            files.write_json(progress / "metrics.json", self.figures)
            # Numbers, not names: these files travel with the model, and a file name may hold a name.
            files.write_csv(progress / "patients.csv", ["patient", "hospital", "structure", *_FIGURES], self._rows())
            save_overlays(progress / "pictures.safetensors", self.shown)

    def _rows(self) -> Iterator[list[object]]:
        for row, patient in enumerate(self.patients):
            for column, name in enumerate(self.structures):
                values = (getattr(self, figure)[row, column] for figure in _FIGURES)
                yield [
                    patient,
                    self.hospitals[row],
                    name,
                    *("" if np.isnan(value) else f"{value:.6f}" for value in values),
                ]


def judge_masks(model: ReleasedModel, test: ImageSet, *, settings: Evaluation, synthetic: bool = False) -> Segmented:
    """Judge a model that marks structures; see `primia.evaluation.evaluate.evaluate`.

    Raises:
        DataError: the test set lacks a structure, or the model answers with something that is not a number.
    """
    pixels = [int((test.labels == structure).sum()) for structure in range(len(test.classes))]
    absent = [name for name, count in zip(test.classes, pixels, strict=True) if count == 0]
    if absent:
        raise DataError(
            f"No test patient has a pixel of {', '.join(absent)}, which could not be judged; add such patients to the "
            "test set or take the structure out of ingest.classes."
        )
    predicted, doubt = _marked(model, test.images)
    structures = test.classes[1:]
    patients = torch.unique(test.patients).tolist()
    dice = patient_dice(predicted, test.labels, test.patients, classes=len(test.classes)).numpy()
    surfaces = [
        _surfaces(predicted[test.patients == patient], test.labels[test.patients == patient], model, settings)
        for patient in patients
    ]
    hd95, surface_dice = (np.stack([one[kind] for one in surfaces]) for kind in (0, 1))
    present = np.array(
        [
            [bool((test.labels[test.patients == patient] == 1 + number).any()) for number in range(len(structures))]
            for patient in patients
        ]
    )
    show = synthetic or settings.pictures
    figures: dict[str, Any] = {
        **common_figures(model, test, settings=settings),
        "uncovered": [PICTURES] if show and not synthetic else [],
        "unit": "pixels" if model.volume is None else "mm",
        "tolerance": settings.tolerance,
        "pixels_per_class": dict(zip(test.classes, pixels, strict=True)),
    }
    for name, values in (("dice", dice), ("hd95", hd95), ("surface_dice", surface_dice)):
        figures[name], figures[f"{name}_by_structure"] = _intervals(values, present, structures, settings)
    hospitals = [test.hospitals[patient] if test.hospitals else "" for patient in patients]
    figures["by_hospital"] = {
        hospital: _of_hospital(dice[home], present[home], structures, settings)
        for hospital in sorted(set(hospitals) - {""})
        for home in [np.array(hospitals) == hospital]
    }
    of_patient = _mean([*dice.T])
    order = np.argsort(of_patient, kind="stable")[: np.count_nonzero(~np.isnan(of_patient))]
    worst_first = [patients[row] for row in order]
    figures["worst_dice"] = float(np.nanmin(dice))
    by_structure = figures["dice_by_structure"]
    # None, of too few patients, comes first; gates ask for the low end, and refuse where there is none.
    lows = {name: -1.0 if by_structure[name]["low"] is None else by_structure[name]["low"] for name in structures}
    least = min(structures, key=lambda name: (lows[name], by_structure[name]["value"]))
    figures["worst_structure"] = {"name": least, **by_structure[least]}
    figures["worst"] = [
        {"patient": patients[row], "dice": float(of_patient[row])} for row in order[: settings.worst].tolist()
    ]
    shown = partial(overlays, test, predicted, doubt, of_volumes=model.volume is not None)
    return Segmented(
        figures=figures,
        dice=dice,
        hd95=hd95,
        surface_dice=surface_dice,
        patients=patients,
        hospitals=hospitals,
        structures=structures,
        shown=shown(patients=worst_first, dice=of_patient[order]) if show else (),
    )


def _of_hospital(
    dice: Floats, present: NDArray[np.bool_], structures: Sequence[str], settings: Evaluation
) -> dict[str, Any]:
    """What metrics.json says of the test patients of one hospital; both arrays are (patients, structures)."""
    mean, each = _intervals(dice, present, structures, settings)
    return {"patients": len(dice), "dice": mean, "dice_by_structure": each}


def _intervals(
    values: Floats, present: NDArray[np.bool_], structures: Sequence[str], settings: Evaluation
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Of the mean over structures and of each: value, ends of the interval, and how many patients have the structure.

    A structure that too few have gets no ends, and neither does a mean that it is part of.
    """
    mean, *each = mean_intervals(values, resamples=settings.bootstrap, seed=settings.seed)
    counts = present.sum(axis=0).tolist()
    fewest = min((n for n, figure in zip(counts, each, strict=True) if figure["value"] is not None), default=0)
    none = {"low": None, "high": None}
    told = [{**figure, **({} if n >= _FEWEST else none), "patients": n} for n, figure in zip(counts, each, strict=True)]
    return {**mean, **({} if fewest >= _FEWEST else none)}, dict(zip(structures, told, strict=True))


@torch.no_grad()
def _marked(model: ReleasedModel, images: Tensor) -> tuple[Tensor, Tensor]:
    """Class map uint8 and entropy of the answer in [0, 1], both (images, *spatial), a batch at a time."""
    marked, doubts = [], []
    for batch in torch.split(images, _BATCH):
        probabilities = model.probabilities(batch)
        finite(model, probabilities.numpy())
        entropy = torch.special.entr(probabilities).sum(dim=1) / np.log(probabilities.shape[1])
        marked.append(probabilities.argmax(dim=1).to(torch.uint8))
        doubts.append(entropy.half())
    return torch.cat(marked), torch.cat(doubts)


def _surfaces(predicted: Tensor, truth: Tensor, model: ReleasedModel, settings: Evaluation) -> tuple[Floats, Floats]:
    """HD95 and surface Dice of one patient, each (structures,): of the volume, or the mean over single pictures."""
    views = list(zip(predicted, truth, strict=True))
    spacing: Sequence[float] = (1.0, 1.0) if model.volume is None else model.volume.spacing
    if model.volume is not None and model.depth is None:
        views = [(predicted.movedim(0, -1), truth.movedim(0, -1))]
    found = [
        surface_distances(*view, classes=len(model.classes), spacing=spacing, tolerance=settings.tolerance)
        for view in views
    ]
    return _mean([distances for distances, _ in found]), _mean([overlaps for _, overlaps in found])


def _mean(of_views: Sequence[Floats]) -> Floats:
    """Mean over the first axis of what is a number; NaN where nothing is."""
    values = np.stack(of_views)
    there: NDArray[np.bool_] = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, values, 0.0).sum(axis=0) / there.sum(axis=0), dtype=np.float64)
