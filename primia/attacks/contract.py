"""The contract of all attacks: a scene in, parts of work that can be kept, an outcome for the verdict.

An attack never judges itself: it hands over how often the attacker was right, how often the same attacker was right
where the answer is known beforehand, and what the declared privacy allows. `primia.attacks.verdict` does the rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from torch import Tensor

from primia.attacks.bounds import clopper_pearson
from primia.attacks.budget import Budget
from primia.attacks.scene import Scene

Advance = Callable[[int, int], None]


class Verdict(StrEnum):
    """Only PASS lets a model be promoted."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class Trials:
    """How often an attacker was right; `chance` is the success rate of blind guessing."""

    successes: int
    total: int
    chance: float

    @property
    def rate(self) -> float:
        """Share of trials in which the attacker was right."""
        return self.successes / self.total

    def interval(self, confidence: float) -> tuple[float, float]:
        """Exact two-sided interval of the success rate."""
        return clopper_pearson(self.successes, self.total, confidence=confidence)

    def to_json(self, confidence: float) -> dict[str, Any]:
        """Counts, rate and interval under the keys of attack.json."""
        low, high = self.interval(confidence)
        return {
            "trials": self.total,
            "successes": self.successes,
            "rate": self.rate,
            "low": low,
            "high": high,
            "chance": self.chance,
        }


@dataclass(frozen=True)
class Check:
    """A figure that the declared privacy fixes, seen with the answer in hand; outside its range nothing is private.

    Attributes:
        name: of the figure, as a key.
        value: measured.
        low: smallest value that an honest release has, up to chance.
        high: largest such value.
        broken: one sentence on what is wrong outside the range.
    """

    name: str
    value: float
    low: float
    high: float
    broken: str

    @property
    def holds(self) -> bool:
        """Whether the value is in its range; NaN is not."""
        return self.low <= self.value <= self.high


@dataclass(frozen=True)
class Outcome:
    """What an attack found.

    Attributes:
        deed: what counts as a success, to be followed by "in 3 of 200 updates": "named the right patient".
        cases: what is counted: "updates".
        trials: on the release under attack.
        bound: largest success rate that the declared privacy allows; None if none was declared.
        promise: what sets the bound, for the reason: "The declared privacy of one step".
        positive: the same attacker, budget and seeds on the undefended release, where it must succeed.
        negative: the same attacker where nothing can be learned, where it must be at chance.
        convincing: the lower end that `positive` must reach besides `bound`.
        unconvincing: what follows where it does not, in place of a way out by a larger budget: "this training ...".
        checks: what the release showed of clipping, noise, sampling or accounting.
        doubts: sentences that say why nothing follows from the trials; any of them makes it inconclusive.
        limits: sentences that a PASS must carry.
        facts: figures of this attack for the report; JSON values.
        pictures: arrays for the report by name.
    """

    deed: str
    cases: str
    trials: Trials
    bound: float | None
    promise: str
    positive: Trials
    negative: Trials
    convincing: float
    unconvincing: str = ""
    checks: tuple[Check, ...] = ()
    doubts: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """What one part of an attack's work gives, to be kept until all are there: JSON values, and arrays."""

    values: Mapping[str, Any]
    arrays: Mapping[str, Tensor] = field(default_factory=dict)


def counted(parts: Sequence[Part], arm: str, *, chance: float) -> Trials:
    """Trials of one arm over all parts, each of which tells `trials` and, under the arm's name, right answers."""
    return Trials(sum(part.values[arm] for part in parts), sum(part.values["trials"] for part in parts), chance)


class Attack(Protocol):
    """One attack; instances are frozen dataclasses that hold nothing but what tells two attacks apart."""

    @property
    def name(self) -> str:
        """Key in attack.json and in gates.yaml: `gradient_retrieval`."""

    @property
    def version(self) -> int:
        """Goes up with every change that may change a verdict."""

    @property
    def tier(self) -> str:
        """`worst case`, `relaxed` or `realistic` (Ziller et al. 2024)."""

    @property
    def round(self) -> str:
        """Which weights are attacked: `first` or `released`."""

    def trials(self, budget: Budget) -> int:
        """How many trials a budget allows."""

    def parts(self, scene: Scene) -> int:
        """Into how many parts the work is cut."""

    def part(self, scene: Scene, index: int, advance: Advance) -> Part:
        """Do part `index`; it depends on the scene and its seeds, and on no other part.

        `advance` is told (trials done, trials in this part). Runs beside other parts in threads of one process, so a
        network is copied before anything is done to it.
        """

    def gather(self, scene: Scene, parts: Sequence[Part]) -> Outcome:
        """Put all parts together, in their order."""


@dataclass(frozen=True)
class AttackReport:
    """One attack on one model, judged."""

    name: str
    version: int
    tier: str
    round: str
    verdict: Verdict
    reason: str
    outcome: Outcome
    confidence: float
    budget: str
    seconds: float
    model_digest: str
    model_round: int
    data_hash: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One entry of `attacks` in attack.json."""
        outcome = self.outcome
        return {
            "name": self.name,
            "version": self.version,
            "tier": self.tier,
            "verdict": self.verdict.value,
            "reason": self.reason,
            **outcome.trials.to_json(self.confidence),
            "bound": outcome.bound,
            "controls": {
                "positive": outcome.positive.to_json(self.confidence),
                "negative": outcome.negative.to_json(self.confidence),
                "convincing": outcome.convincing,
            },
            "checks": [
                {"name": check.name, "value": check.value, "low": check.low, "high": check.high, "holds": check.holds}
                for check in outcome.checks
            ],
            "facts": dict(outcome.facts),
            "confidence": self.confidence,
            "budget": self.budget,
            "seconds": self.seconds,
            "model_digest": self.model_digest,
            "model_round": self.model_round,
            "data_hash": self.data_hash,
            "settings": dict(self.settings),
        }
