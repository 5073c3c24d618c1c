"""What the updates of gradient retrieval show of clipping and noise, beside what was declared."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from primia.attacks.contract import Check, Part
from primia.attacks.lineups import Lineups
from primia.attacks.noise_record import NoiseRecord
from primia.attacks.views import View

ROUNDING = 1e-4  # relative, of a norm in float32
# Standard errors that honest noise may seem to be off; by luck once in two million reports.
NOISE_ERRORS = 5.0

# Updates of each part whose noise is examined weight by weight, of small heads more: a bias has but a few values.
_RECORDED, _RECORDED_OF_SMALL, _SMALL = 20, 100, 2**20
_CROWDS, _CROWD = 8, 8  # steps of several patients in each part, and how many take part
_INEXACT = 0.05  # of what one patient changes, as a difference of two sums that were computed in bfloat16


def noise_checks(views: Sequence[View], lineups: Lineups, deviation: float, *, head: nn.Module) -> tuple[Check, ...]:
    """What the noise of a few updates shows beyond its size as a whole, which all updates tell; views take turns."""
    sizes = {name: weight.numel() for name, weight in sorted(head.named_parameters())}
    updates = _RECORDED_OF_SMALL if sum(sizes.values()) < _SMALL else _RECORDED
    patients = lineups.patients[:updates].tolist()
    record, empty = NoiseRecord(releases=len(patients)), NoiseRecord(releases=len(patients))
    for turn, patient in enumerate(patients):
        view = views[turn % len(views)]
        noise = view.update([patient], defended=True) - view.clean(patient, defended=True)
        parts = torch.split(noise.double() / deviation, list(sizes.values()))
        record.add(dict(zip(sizes, parts, strict=True)))
        empty.add({"update": view.update([], defended=True).double() / deviation})
    told = [check for check in record.checks() if check.name != "noise"]
    size = next(check for check in empty.checks() if check.name == "noise")
    return *told, replace(size, name="noise_of_nobody", broken=f"When nobody takes part: {size.broken}")


def influence(view: View, lineups: Lineups) -> float:
    """The most by which one patient's taking part changes a step of a few, without noise.

    Clipping that depends on who else takes part bounds every patient alone, and nobody among others.
    """
    most = 0.0
    for members in lineups.members[:_CROWDS, :_CROWD].tolist():
        lengths = [float(view.clean(row, defended=False).double().norm()) for row in members]
        whole = view.together(members).double()
        for place in {0, lengths.index(max(lengths)), lengths.index(min(lengths))}:
            rest = view.together(members[:place] + members[place + 1 :]).double()
            most = largest((most, float((whole - rest).norm())))
    return most


def largest(values: Iterable[float]) -> float:
    """The largest, or NaN if one is no number."""
    return max(values, key=lambda value: (value != value, value))


def worst_checks(parts: Sequence[Part]) -> list[Check]:
    """Of each check of the noise the one that is broken in some part, or that of the last part."""
    found: dict[str, Check] = {}
    for part in parts:
        for values in part.values["noise"]:
            check = Check(**values)
            if found.get(check.name) is None or found[check.name].holds:
                found[check.name] = check
    return list(found.values())


def clipping_check(longest: float) -> Check:
    """Whether the longest noiseless update of one patient, in clip norms, is within the clip norm."""
    return Check(
        name="longest",
        value=longest,
        low=0.0,
        high=1 + ROUNDING,
        broken=f"The noiseless update of one patient is {longest:.3g} times as long as the clip norm: "
        "clipping is skipped or wrong, so the accounted privacy does not hold.",
    )


def influence_check(influence: float, *, precision: str) -> Check:
    """Whether `influence`, in clip norms, is within the clip norm as well as training of that precision allows."""
    inexact = ROUNDING if precision == "float32" else _INEXACT
    return Check(
        name="influence",
        value=influence,
        low=0.0,
        high=1 + inexact,
        broken=f"One patient's taking part changes the noiseless sum over several by {influence:.3g} clip norms: what "
        "is kept of a patient depends on who else takes part, so the accounted privacy does not hold.",
    )


def untested_clipping(longest: float) -> tuple[str, ...]:
    """What to say if no update was long enough to be clipped."""
    if not longest < 1 - ROUNDING:
        return ()
    return (
        f"No update reached the clip norm at these weights (the longest is {longest:.3g} of it), "
        "so clipping was not put to the test.",
    )


def size_check(noise: float, *, error: float) -> Check:
    """Whether `noise` of all updates, in declared deviations, is 1 within its standard `error`."""
    allowed = NOISE_ERRORS * error
    said = f"The observed updates carry {noise:.3g} times the declared noise"
    if noise > 1:
        said = (
            "The observed updates are longer than clipped gradients with the declared noise (beyond the clipped "
            f"gradient they carry {noise:.3g} times the noise): clipping is skipped or the release is not the declared "
            "one."
        )
    else:
        said += ": noise is missing or too small, so the accounted privacy does not hold."
    return Check(name="noise", value=noise, low=1 - allowed, high=1 + allowed, broken=said)
