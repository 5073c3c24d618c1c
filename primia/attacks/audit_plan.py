"""What an audit fixes before it sees anything: how many steps and guesses, and how many right ones are too many."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from primia.attacks.audit_bounds import rate_below, too_many_right
from primia.attacks.bounds import clopper_pearson
from primia.attacks.scene import Declared
from primia.privacy.curve import privacy_curve
from primia.privacy.release import Release

CONVINCING = 0.9  # lower end of the success rate without noise

_SHARES = (0.05, 0.1, 0.2)  # of the canaries that are guessed about
_SURE = 0.8  # of the canaries that sampling lets take part, so many may be guessed at most
_LEAST_NOISE = 0.02  # of the declared noise
_VALUES_PER_CANARY = 20_000


@dataclass(frozen=True)
class Plan:
    """How a release is audited, and what that can show.

    Attributes:
        steps: in the first call of the trainer, which the guesses are about.
        rounds: steps of each call that follows.
        guesses: so many canaries with the highest scores are guessed to have taken part; about the others nothing is
            said, as a canary that sampling passed over looks like one that was left out.
        bound: success rate that the declared privacy of `steps` allows.
        noise_found: largest share of the declared noise with which a release would probably be found out by the
            guesses; 0 if they cannot.
    """

    steps: int
    rounds: tuple[int, ...]
    guesses: int
    bound: float
    noise_found: float

    @property
    def calls(self) -> tuple[int, ...]:
        """Steps of each call of the trainer."""
        return self.steps, *self.rounds


def of_steps(declared: Declared, steps: int) -> list[Release]:
    """The first steps of the training, as they are accounted."""
    return [replace(release, steps=steps) for release in declared.training()]


def steps_within(budgeted: int, *, weights: int, steps: int) -> int:
    """Steps that `budgeted` canaries pay for: 20,000 values of noise each, and two steps at least.

    With 1000 canaries that is 480 steps of the scattering head at 64 pixels, and two of a ResNet-18.
    """
    return min(steps, max(2, _VALUES_PER_CANARY * budgeted // weights))


@lru_cache(maxsize=64)
def plan(declared: Declared, *, canaries: int, confidence: float, steps: int) -> Plan:
    """Choose what finds the smallest lack of noise, from the declared privacy alone.

    The more steps, the clearer the attacker sees, and the higher the bound, which soon no number of canaries can be
    right more often than; so the guesses are about a first part of the training, and the rest follows round by round.

    Args:
        declared: of the training.
        canaries: at least 20.
        confidence: of the intervals that decide.
        steps: audited in all.
    """
    best: Plan | None = None
    count, longest = 1, max(1, steps // 2)
    while count <= longest:
        seen = 1 - (1 - declared.sampling_rate) ** count
        curve = privacy_curve(of_steps(declared, count))
        for share in _SHARES:
            guesses = math.ceil(share * canaries)
            if best is not None and guesses > _SURE * seen * canaries / 2:
                continue
            needed = too_many_right(curve, canaries=canaries, guesses=guesses, chance=(1 - confidence) / 2)
            bound = rate_below(needed, guesses=guesses, confidence=confidence)
            convinces = clopper_pearson(guesses, guesses, confidence=confidence)[0] >= max(CONVINCING, bound)
            found = _noise_found(declared, canaries, guesses, count, needed) if convinces else 0.0
            if best is None or found > best.noise_found:
                rest, each = steps - count, declared.steps_per_round
                rounds = (each,) * (rest // each) + ((rest % each,) if rest % each else ())
                best = Plan(count, rounds, guesses, bound, found)
        count *= 4
    assert best is not None
    return best


def expected_right(*, canaries: int, guesses: int, sampling_rate: float, steps: int, noise: float) -> float:
    """Right guesses to be expected among the highest scores, if a canary's score is N + noise · √steps · z.

    N, the steps that it takes part in, is binomial if it is in, and 0 if it is not.
    """
    from scipy.optimize import brentq
    from scipy.stats import binom, norm

    takes_part = np.arange(steps + 1)
    weights, deviation = binom.pmf(takes_part, steps, sampling_rate), noise * math.sqrt(steps)

    def inside(threshold: float) -> float:
        return float(weights @ norm.sf((threshold - takes_part) / deviation))

    def outside(threshold: float) -> float:
        return float(norm.sf(threshold / deviation))

    share, reach = 2 * guesses / canaries, 10 * deviation + 1
    threshold = brentq(lambda x: inside(x) + outside(x) - share, -reach, steps + reach)
    return guesses * inside(threshold) / (inside(threshold) + outside(threshold))


def _noise_found(declared: Declared, canaries: int, guesses: int, steps: int, needed: int) -> float:
    """Largest share of the declared noise at which as many right guesses as `needed` are to be expected."""

    def right(share: float) -> float:
        return expected_right(
            canaries=canaries,
            guesses=guesses,
            sampling_rate=declared.sampling_rate,
            steps=steps,
            noise=share * declared.noise_seen,
        )

    low, high = _LEAST_NOISE, 1.0
    if right(low) < needed:
        return 0.0
    while high > 1.02 * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if right(middle) >= needed else (low, middle)
    return low
