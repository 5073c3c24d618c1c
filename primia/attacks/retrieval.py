"""Gradient retrieval: whose image made this update? Worst case, every candidate's image and label being known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from primia.attacks.bounds import gaussian_reconstruction_bound, reconstruction_bound
from primia.attacks.budget import Budget
from primia.attacks.contract import Advance, Check, Outcome, Part, Trials, counted
from primia.attacks.lineups import Lineups, draw_lineups
from primia.attacks.retrieval_checks import (
    clipping_check,
    influence,
    influence_check,
    largest,
    noise_checks,
    size_check,
    untested_clipping,
    worst_checks,
)
from primia.attacks.scene import Scene
from primia.attacks.views import Candidates, RoundView, StepView, View, deal_candidates

CURVE = (0.25, 0.5, 1.0, 2.0, 4.0)  # noise multipliers
CONVINCING = 0.9  # an attacker below this on an undefended release proves nothing by failing

_TRIALS = 200  # of one part
_FEWER = 2  # times as few are made at each noise of the curve, which no verdict rests on
# Numbers held at once, of updates as of gradients: plenty for a head of 40,000 weights; a ResNet-18 goes in blocks.
_BLOCK = 2**28
_GROUP = 256  # gradients compared at once
_SLICE = 2**17  # weights compared at once, in float64


@dataclass(frozen=True)
class GradientRetrieval:
    """The attacker names, among equally likely candidates, the patient behind an update, by likelihood.

    Each trial is one release in which exactly one of `gallery` known patients takes part. Worst case: the attacker
    knows every candidate's image and label, and subtracts what others contribute, which is why nobody else is drawn
    (Balle et al. 2022). Galleries and targets come from the seed, so that all controls see the same ones.

    `view` is what it sees: `step`, as the accountant's adversary does, or `round`, the change that leaves a hospital.

    Facts: weights; patients; longest, the longest noiseless update in clip norms; influence, the most by which one
    patient's taking part changed the noiseless sum over several, in clip norms; noise and noise_error, what noise
    added to the updates, in the declared deviation, and the standard error of that; curve, the same attack at other
    noise multipliers.
    """

    round: str = "released"
    view: Literal["step", "round"] = "step"

    version = 4
    tier = "worst case"

    @property
    def name(self) -> str:
        """Of this attack."""
        return "gradient_retrieval" if self.view == "step" else "round_retrieval"

    def trials(self, budget: Budget) -> int:
        """Updates."""
        return budget.retrieval_trials

    def parts(self, scene: Scene) -> int:
        """So many trials at a time."""
        return math.ceil(self.trials(scene.budget) / _TRIALS)

    def part(self, scene: Scene, index: int, advance: Advance) -> Part:
        """Trials undefended, with nobody, as released, and, at the released weights, over a range of noise."""
        model = scene.model(self.round)
        candidates = deal_candidates(scene, model)
        view = self._view(scene, candidates)
        trials = min(_TRIALS, self.trials(scene.budget) - index * _TRIALS)
        lineups = draw_lineups(
            patients=len(candidates),
            gallery=scene.settings.gallery,
            trials=trials,
            generator=scene.generator("lineups", index),
        )
        curve, few = CURVE if self._draws_curve(scene) else (), lineups.first(math.ceil(trials / _FEWER))
        count = _counter((2 + (scene.declared is not None)) * trials + len(curve) * len(few), advance)
        values: dict[str, Any] = {
            "trials": trials,
            "patients": len(candidates),
            "undefended": _attempt(view, lineups, defended=False, count=count).successes,
            "nobody": _attempt(
                view, lineups, defended=scene.declared is not None, anybody=False, count=count
            ).successes,
        }
        if scene.declared is None:
            return Part(values | {"weights": view.clean(0, defended=False).numel()})
        attacked = _attempt(view, lineups, defended=True, count=count)
        values |= {"attacked": attacked.successes, "residual": attacked.residual, "weights": attacked.weights}
        lengths = torch.stack([view.clean(row, defended=True).double().norm() for row in range(len(candidates))])
        values["longest"] = float(lengths.max()) / scene.declared.clip_norm
        values["noise"] = []
        if self.view == "step":
            # Two views, since a source that always begins alike repeats itself only in another one.
            views = [self._view(scene, candidates) for _ in range(2)]
            deviation = scene.declared.noise_seen * scene.declared.clip_norm
            values["noise"] = [asdict(check) for check in noise_checks(views, lineups, deviation, head=candidates.head)]
            values["influence"] = influence(view, lineups) / scene.declared.clip_norm
        values["curve"] = [
            _attempt(self._view(_noisier(scene, sigma), candidates), few, defended=True, count=count).successes
            for sigma in curve
        ]
        values["curve_trials"] = len(few)
        return Part(values)

    def gather(self, scene: Scene, parts: Sequence[Part]) -> Outcome:
        """Sum up, and compare with γ of the release that was seen."""
        chance, declared = 1 / scene.settings.gallery, scene.declared
        total = sum(part.values["trials"] for part in parts)

        hits = partial(counted, parts, chance=chance)

        facts: dict[str, Any] = {key: parts[0].values[key] for key in ("weights", "patients")}
        bound: float | None = None
        checks: tuple[Check, ...] = ()
        limits: tuple[str, ...] = ()
        promise = ""
        if declared is not None:
            seen = declared.taking_part() if self.view == "step" else declared.one_round()
            bound = reconstruction_bound(seen, chance=chance)
            promise = f"The declared privacy of one {self.view}"
            facts["longest"] = largest(part.values["longest"] for part in parts)
            checks, limits = (clipping_check(facts["longest"]),), untested_clipping(facts["longest"])
            if self.view == "step":
                squares = sum(part.values["residual"] for part in parts) / (total * facts["weights"])
                facts["noise"] = squares**0.5 / (declared.noise_seen * declared.clip_norm)
                facts["noise_error"] = (2 * total * facts["weights"]) ** -0.5
                facts["influence"] = largest(part.values["influence"] for part in parts)
                checks = (
                    *checks,
                    influence_check(facts["influence"], precision=scene.training.precision),
                    size_check(facts["noise"], error=facts["noise_error"]),
                    *worst_checks(parts),
                )
        if self._draws_curve(scene):
            facts["curve"] = self._curve(scene, parts)
        return Outcome(
            deed="named the right patient",
            cases="updates",
            trials=hits("undefended" if declared is None else "attacked"),
            bound=bound,
            promise=promise,
            positive=hits("undefended"),
            negative=hits("nobody"),
            convincing=CONVINCING,
            checks=checks,
            limits=limits,
            facts=facts,
        )

    def _view(self, scene: Scene, candidates: Candidates) -> View:
        return StepView(scene, candidates) if self.view == "step" else RoundView(scene, candidates)

    def _draws_curve(self, scene: Scene) -> bool:
        return (
            scene.declared is not None
            and not scene.declared.discrete
            and (self.round, self.view) == ("released", "step")
        )

    def _curve(self, scene: Scene, parts: Sequence[Part]) -> list[dict[str, float]]:
        chance, rows = 1 / scene.settings.gallery, []
        total = sum(part.values["curve_trials"] for part in parts)
        for place, sigma in enumerate(CURVE):
            trials = Trials(sum(part.values["curve"][place] for part in parts), total, chance)
            low, high = trials.interval(scene.settings.confidence)
            bound = gaussian_reconstruction_bound(chance=chance, mu=1 / sigma)
            rows.append({"noise_multiplier": sigma, "rate": trials.rate, "low": low, "high": high, "bound": bound})
        return rows


@dataclass(frozen=True)
class _Attempt:
    """Right answers, and the sum of squares of observed update minus noiseless update."""

    successes: int
    residual: float
    weights: int


def _attempt(
    view: View, lineups: Lineups, *, defended: bool, count: Callable[[], None], anybody: bool = True
) -> _Attempt:
    """Attack each trial; with `anybody` False the update depends on no patient (negative control)."""
    trials = len(lineups.targets)
    weights = view.clean(0, defended=defended).numel()
    block = max(1, _BLOCK // weights)
    successes, residual = 0, 0.0
    for start in range(0, trials, block):
        rows = slice(start, min(start + block, trials))
        updates = torch.empty(rows.stop - rows.start, weights)
        for place, patient in enumerate(lineups.patients[rows].tolist()):
            updates[place] = view.update([patient] if anybody else [], defended=defended)
            count()
        patients = int(lineups.members.max()) + 1
        gradients = (view.clean(row, defended=defended) for row in range(patients))
        scores = unlikelihoods(updates, gradients, patients=patients, most_steps=view.most_steps)
        guesses = scores.gather(1, lineups.members[rows]).argmin(dim=1)
        successes += int((guesses == lineups.targets[rows]).sum())
        lengths = torch.stack([update.double().square().sum() for update in updates])
        residual += float((lengths + scores.gather(1, lineups.patients[rows, None])[:, 0]).clamp_min(0).sum())
    return _Attempt(successes, residual, weights)


def unlikelihoods(updates: Tensor, gradients: Any, *, patients: int, most_steps: int = 1) -> Tensor:
    """Score every candidate for every update: smaller is likelier under Gaussian noise of any size.

    Squared distance ‖u − k·g‖² = ‖u‖² − 2k⟨u, g⟩ + k²‖g‖² less the ‖u‖² that all candidates share, for the number k of
    steps that suits the candidate best. In float64, because near candidates differ in late digits.

    Args:
        updates: (updates, weights) float32.
        gradients: iterable of (weights,) float32, one for each candidate.
        patients: how many candidates.
        most_steps: k is between 1 and this.

    Returns:
        (updates, candidates) float64.
    """
    weights = updates.shape[1]
    group = max(1, min(_GROUP, _BLOCK // weights))
    waiting, columns = iter(gradients), []
    for start in range(0, patients, group):
        stacked = torch.stack([next(waiting) for _ in range(min(group, patients - start))])
        squares = torch.zeros(len(stacked), dtype=torch.float64)
        inner = torch.zeros(len(updates), len(stacked), dtype=torch.float64)
        for first in range(0, weights, _SLICE):
            part = stacked[:, first : first + _SLICE].double()
            squares += part.square().sum(dim=1)
            inner += updates[:, first : first + _SLICE].double() @ part.T
        times = torch.arange(1, most_steps + 1, dtype=torch.float64)[:, None, None]
        columns.append((times.square() * squares - 2 * times * inner).amin(dim=0))
    return torch.cat(columns, dim=1)


def _noisier(scene: Scene, sigma: float) -> Scene:
    assert scene.declared is not None
    return replace(scene, declared=replace(scene.declared, noise_multiplier=sigma, noise_seen=sigma))


def _counter(total: int, advance: Advance) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        advance(done, total)

    return count
