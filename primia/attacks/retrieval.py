"""Gradient retrieval: whose image made this update? Worst case, every candidate's image and label being known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from primia.attacks.contract import ReleaseCheck, Trials
from primia.privacy.noise import NoiseSource

# The signature of primia.training.private.private_gradient.
UpdateRelease = Callable[..., dict[str, Tensor]]

# Numbers held at once, of updates as of gradients: plenty for a head of 40,000 weights; a ResNet-18 goes in blocks.
BLOCK = 2**28
KEPT = 2**30  # float32 values of candidates' gradients, 4 GiB
GROUP = 256  # gradients compared at once
SLICE = 2**17  # weights compared at once, in float64


@dataclass(frozen=True)
class Candidates:
    """What the attacker knows: the weights, and one image with its label of every patient there may be.

    Attributes:
        head: the learned part of the network, as broadcast to the sites.
        inputs: what the head sees, (patients, ...) float32.
        labels: (patients,) int64.
    """

    head: nn.Module
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Lineups:
    """Who stands before the attacker in each trial, and, hidden from it, whose update it sees.

    Attributes:
        members: (trials, gallery) int64, rows of `Candidates`, no patient twice in a trial.
        targets: (trials,) int64, position of the drawn patient within `members`.
    """

    members: Tensor
    targets: Tensor

    @property
    def patients(self) -> Tensor:
        """Row of `Candidates` of each trial's target, (trials,)."""
        return self.members.gather(1, self.targets[:, None])[:, 0]


def draw_lineups(*, patients: int, gallery: int, trials: int, generator: torch.Generator) -> Lineups:
    """Draw a fresh gallery for every trial, and its target uniformly."""
    members = torch.stack([torch.randperm(patients, generator=generator)[:gallery] for _ in range(trials)])
    return Lineups(members, torch.randint(gallery, (trials,), generator=generator))


class SiteStep:
    """One step of a site's training code on given patients, as the coordinator would receive it."""

    def __init__(self, candidates: Candidates, *, clip_norm: float, release: UpdateRelease, noise: NoiseSource) -> None:
        self._candidates = candidates
        self._clip_norm = clip_norm
        self._release = release
        self._noise = noise
        self._clean: list[Tensor] = []

    def update(self, drawn: list[int], *, noise_multiplier: float) -> Tensor:
        """Release the update of the patients `drawn`, (weights,) float32; nobody else takes part."""
        released = self._release(
            self._candidates.head,
            inputs=self._candidates.inputs,
            labels=self._candidates.labels,
            patients_drawn=[torch.tensor(row) for row in drawn],
            clip_norm=self._clip_norm,
            noise_multiplier=noise_multiplier,
            expected_batch=1,
            noise=self._noise,
        )
        return torch.cat([released[name].detach().flatten() for name in sorted(released)]).float()

    def clean_gradients(self) -> Iterator[Tensor]:
        """Each candidate's noiseless update in turn; kept while they fit in memory, computed again beyond."""
        yield from self._clean
        for row in range(len(self._clean), len(self._candidates.labels)):
            gradient = self.update([row], noise_multiplier=0.0)
            if (row + 1) * gradient.numel() <= KEPT and len(self._clean) == row:
                self._clean.append(gradient)
            yield gradient

    def longest(self) -> float:
        """Length of the longest noiseless update of one patient, in clip norms; NaN if any is NaN."""
        lengths = torch.stack([gradient.double().norm() for gradient in self.clean_gradients()])
        return float(lengths.max()) / self._clip_norm


def unlikelihoods(updates: Tensor, gradients: Iterator[Tensor]) -> Tensor:
    """Score every candidate for every update: smaller is likelier under Gaussian noise of any size.

    Squared distance ‖u − g‖² = ‖u‖² − 2⟨u, g⟩ + ‖g‖² less the ‖u‖² that all candidates share, in float64
    because near candidates differ in late digits.

    Args:
        updates: (updates, weights) float32.
        gradients: (weights,) float32 for each candidate.

    Returns:
        (updates, candidates) float64.
    """
    weights = updates.shape[1]
    columns = []
    while group := list(islice(gradients, max(1, min(GROUP, BLOCK // weights)))):
        stacked = torch.stack(group)
        scores = torch.zeros(len(updates), len(group), dtype=torch.float64)
        for start in range(0, weights, SLICE):
            part = stacked[:, start : start + SLICE].double()
            scores += part.square().sum(dim=1) - 2 * updates[:, start : start + SLICE].double() @ part.T
        columns.append(scores)
    return torch.cat(columns, dim=1)


@dataclass(frozen=True)
class Attempt:
    """Trials of one release, and the mean square per weight of observed update minus noiseless update."""

    trials: Trials
    residual: float
    weights: int

    def check(self, step: SiteStep, *, clip_norm: float, noise_multiplier: float) -> ReleaseCheck:
        """Compare the observed updates with what a clipped gradient and the declared noise would give."""
        declared = noise_multiplier * clip_norm
        return ReleaseCheck(
            longest=step.longest(),
            noise=self.residual**0.5 / declared,
            # of the root mean square of that many normal numbers
            noise_error=(2 * self.weights * self.trials.total) ** -0.5,
        )


def attempt(
    step: SiteStep, lineups: Lineups, *, noise_multiplier: float, anybody: bool, on_trial: Callable[[], None]
) -> Attempt:
    """Let the attacker name the target of every trial from one update each.

    `anybody` False makes the update depend on no patient (negative control). The attacker may subtract what
    the other patients contributed, which is why nobody but the target is drawn (Balle et al. 2022).
    """
    trials, gallery = lineups.members.shape
    weights = next(iter(step.clean_gradients())).numel()
    block = max(1, BLOCK // weights)
    successes, residual = 0, 0.0
    for start in range(0, trials, block):
        rows = slice(start, min(start + block, trials))
        updates = torch.empty(rows.stop - rows.start, weights)
        for place, patient in enumerate(lineups.patients[rows].tolist()):
            updates[place] = step.update([patient] if anybody else [], noise_multiplier=noise_multiplier)
            on_trial()
        scores = unlikelihoods(updates, step.clean_gradients())
        guesses = scores.gather(1, lineups.members[rows]).argmin(dim=1)
        successes += int((guesses == lineups.targets[rows]).sum())
        lengths = torch.stack([update.double().square().sum() for update in updates])
        residual += float((lengths + scores.gather(1, lineups.patients[rows, None])[:, 0]).sum())
    return Attempt(Trials(successes, trials, 1 / gallery), max(residual, 0.0) / (trials * weights), weights)
