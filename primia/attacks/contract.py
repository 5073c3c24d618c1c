"""What every attack hands over: trials, controls, and a report bound to one model and one set of images."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from primia.attacks.bounds import clopper_pearson


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
class Controls:
    """The same attacker with the same budget and seeds where the answer is known beforehand.

    `positive`: the undefended release, where it must succeed. `negative`: a release that depends on nobody,
    where it must be at chance.
    """

    positive: Trials
    negative: Trials


@dataclass(frozen=True)
class ReleaseCheck:
    """Whether the attacked release is what the accountant assumes, seen with the answer in hand.

    Attributes:
        longest: longest noiseless update of one patient, in clip norms; at most 1 if clipping works.
        noise: root mean square of what noise added to the observed updates, in σ times clip norm; 1 if noise is right.
        noise_error: standard error of `noise` under the declared Gaussian.
    """

    longest: float
    noise: float
    noise_error: float


@dataclass(frozen=True)
class AttackReport:
    """One attack on one model; `bound` is None where no privacy was promised, and so is `check`."""

    name: str
    version: int
    tier: str
    verdict: Verdict
    reason: str
    trials: Trials
    bound: float | None
    controls: Controls
    check: ReleaseCheck | None
    confidence: float
    seconds: float
    model_digest: str
    model_round: int
    data_hash: str
    settings: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """One entry of `attacks` in attack.json."""
        return {
            "name": self.name,
            "version": self.version,
            "tier": self.tier,
            "verdict": self.verdict.value,
            "reason": self.reason,
            **self.trials.to_json(self.confidence),
            "bound": self.bound,
            "controls": {
                "positive": self.controls.positive.to_json(self.confidence),
                "negative": self.controls.negative.to_json(self.confidence),
            },
            "check": None if self.check is None else asdict(self.check),
            "confidence": self.confidence,
            "seconds": self.seconds,
            "model_digest": self.model_digest,
            "model_round": self.model_round,
            "data_hash": self.data_hash,
            "settings": self.settings,
        }
