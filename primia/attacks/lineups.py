"""Who stands before an attacker that names the right one of equally likely patients."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lineups:
    """Who stands before the attacker in each trial, and, hidden from it, whose update it sees.

    Attributes:
        members: (trials, gallery) int64, rows of `Candidates`, no patient twice in a trial.
        targets: (trials,) int64, position of the drawn patient within `members`.
    """

    members: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def first(self, trials: int) -> "Lineups":
        """The first so many trials."""
        return Lineups(self.members[:trials], self.targets[:trials])

    @property
    def patients(self) -> Tensor:
        """Row of `Candidates` of each trial's target, (trials,)."""
        return self.members.gather(1, self.targets[:, None])[:, 0]


def draw_lineups(*, patients: int, gallery: int, trials: int, generator: torch.Generator) -> Lineups:
    """Draw a fresh gallery for every trial, and its target uniformly."""
    members = torch.stack([torch.randperm(patients, generator=generator)[:gallery] for _ in range(trials)])
    return Lineups(members, torch.randint(gallery, (trials,), generator=generator))
