"""How much work an attack may do: quick, standard and full."""

from dataclasses import dataclass
from typing import Literal

BudgetName = Literal["quick", "standard", "full"]


@dataclass(frozen=True)
class Budget:
    """Sizes of all attacks.

    Attributes:
        name: as in `attack.budget`.
        retrieval_trials: updates of which the attacker names the patient.
        inversion_patients: whose image is reconstructed; each counts as one trial.
        inversion_seeds: reconstructions of every patient's image, from different starting points.
        inversion_restarts: short attempts before each reconstruction; the attacker goes on from the best.
        inversion_steps: of the optimiser in one reconstruction.
        inversion_variations: weights of the total variation, of which held-out patients choose one.
        inversion_values: patients times weights, or times 256 pixels of an image, are at most so many.
        imprint_trials: patients caught by an imprinted layer.
        references: models that calibrate membership scores.
        canaries: inserted or left out by coin flips in one audit.
    """

    name: BudgetName
    retrieval_trials: int
    inversion_patients: int
    inversion_seeds: int
    inversion_restarts: int
    inversion_steps: int
    inversion_variations: tuple[float, ...]
    inversion_values: int
    imprint_trials: int
    references: int
    canaries: int


QUICK = Budget(
    name="quick",
    retrieval_trials=200,
    inversion_patients=20,
    inversion_seeds=1,
    inversion_restarts=1,
    inversion_steps=40,
    inversion_variations=(0.01, 0.3),
    inversion_values=2**26,
    imprint_trials=100,
    references=4,
    canaries=1000,
)
STANDARD = Budget(
    name="standard",
    retrieval_trials=1000,
    inversion_patients=20,
    inversion_seeds=3,
    inversion_restarts=2,
    inversion_steps=80,
    inversion_variations=(0.0, 1e-3, 1e-2, 0.1, 0.3, 1.0),
    inversion_values=2**28,
    imprint_trials=400,
    references=8,
    canaries=4000,
)
FULL = Budget(
    name="full",
    retrieval_trials=4000,
    inversion_patients=100,
    inversion_seeds=3,
    inversion_restarts=8,
    inversion_steps=800,
    inversion_variations=(0.0, 1e-3, 1e-2, 0.1, 0.3, 1.0),
    inversion_values=2**31,
    imprint_trials=1000,
    references=8,
    canaries=10_000,
)

# From the smallest to the largest.
BUDGETS: dict[BudgetName, Budget] = {budget.name: budget for budget in (QUICK, STANDARD, FULL)}
