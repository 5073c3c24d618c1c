"""attack.json as a schema with a version: what other programs may rely on."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from primia.attacks.budget import BudgetName
from primia.attacks.contract import Verdict

SCHEMA_VERSION = 4

_Share = Field(ge=0.0, le=1.0)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CountedTrials(_Entry):
    """How often an attacker was right, with the exact interval at the report's confidence."""

    trials: int = Field(ge=1)
    successes: int = Field(ge=0)
    rate: float = _Share
    low: float = _Share
    high: float = _Share
    chance: float = _Share


class ControlEntry(_Entry):
    """The same attacker where the answer is known; `convincing` is what the positive one must reach."""

    positive: CountedTrials
    negative: CountedTrials
    convincing: float = _Share


class CheckEntry(_Entry):
    """A figure that the declared privacy fixes, with the range of honest ones; null where it was not finite."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    holds: bool


class AttackEntry(CountedTrials):
    """One attack on one model; `bound` is null where no privacy was declared."""

    name: str
    version: int
    tier: Literal["worst case", "relaxed", "realistic"]
    verdict: Verdict
    reason: str
    bound: float | None
    controls: ControlEntry
    checks: list[CheckEntry]
    facts: dict[str, Any]
    confidence: float
    budget: BudgetName
    seconds: float
    model_digest: str
    model_round: int
    data_hash: str
    settings: dict[str, Any]


class AttackDocument(_Entry):
    """All of attack.json.

    `confidence` is the lowest of any interval, and `gallery` the fewest candidates that an attacker chose among.
    `verdict` is the worst of all, `verdicts` the worst of each attack. `required` names every attack that applies to
    the training, and it is `complete` if all of them were made at every weights. `uncovered` names what the attacks
    published about patients whom no privacy budget covers. `model_digest` is that of the released model,
    `attacked_digests` those of the weights under attack, first or released; `privacy_digest` is that of the content of
    privacy.json, null where none was given, and `data_hash` covers every image that an attack could read.
    """

    schema_version: Literal[4] = 4
    budget: BudgetName
    confidence: float = Field(gt=0.0, lt=1.0)
    gallery: int = Field(ge=2)
    attacks: list[AttackEntry]
    verdict: Verdict
    verdicts: dict[str, Verdict]
    required: list[str]
    complete: bool
    uncovered: list[str]
    model_digest: str
    attacked_digests: dict[Literal["first", "released"], str]
    privacy_digest: str | None
    data_hash: str


def json_schema() -> dict[str, Any]:
    """The JSON schema of attack.json."""
    return AttackDocument.model_json_schema()
