"""The gates a model version must pass before it is promoted: rules from gates.yaml on the collected facts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from primia import files
from primia.config import load_params
from primia.errors import ConfigError

# Where each section of the facts comes from, in the checkout and in the copy that is stored with a version.
FILES = {
    "params": Path("params.yaml"),
    "data": Path("data/raw/source.json"),
    "federation": Path("results/federation/metrics.json"),
    "privacy": Path("results/federation/privacy.json"),
    "evaluation": Path("results/evaluation/metrics.json"),
    "comparison": Path("results/comparison/comparison.json"),
    "attack": Path("results/attack/attack.json"),
    "encryption": Path("results/encryption/metrics.json"),
}

Scalar = bool | int | float | str
Key = Annotated[str, Field(pattern=rf"^({'|'.join(FILES)})(\.[A-Za-z0-9_-]+)+$")]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

_ABSENT = object()


@dataclass(frozen=True)
class GateResult:
    """Outcome of one gate; `reason` is a sentence for the reviewer, without its full stop, also when it passed."""

    name: str
    passed: bool
    value: Any  # None when the fact is missing
    required: str
    reason: str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Gate(_Strict):
    """A rule on the fact under a dotted `key`; every rule that is given must hold.

    With a `task` the gate is for models of that task only.
    """

    key: Key
    why: str
    task: Literal["classification", "segmentation"] | None = None
    min: int | float | None = None
    max: int | float | None = None
    equals: Scalar | list[Scalar] | None = None
    within: list[Scalar] | None = Field(default=None, alias="in")
    same_as: Key | None = None  # another fact that must be present and equal

    @model_validator(mode="after")
    def _has_a_rule(self) -> "Gate":
        if all(rule is None for rule in (self.min, self.max, self.equals, self.within, self.same_as)):
            raise ValueError("a gate needs at least one rule of min, max, equals, in and same_as")
        return self


class Profile(_Strict):
    """The gates of one use; `marks` is written on every version that passes them."""

    marks: str | None = None
    gates: dict[Name, Gate] = Field(min_length=1)


def collect_facts(root: Path) -> dict[str, Any]:
    """Read the facts about a model version from its files, a section per file.

    The section of a file that does not exist is absent, so that the gates on it fail. At promotion `root` is the
    copy of the files that was stored with the version: the checkout may have moved on.

    Args:
        root: folder that holds params.yaml, data/raw/source.json and results/.

    Returns:
        Sections params, data, federation, privacy, evaluation, comparison, attack and encryption; `digest` in privacy
        is the SHA-256 of the content of its file.

    Raises:
        DataError: a file exists but is not valid JSON.
        ConfigError: params.yaml exists but is not valid.
    """
    there = {section: root / path for section, path in FILES.items() if (root / path).exists()}
    facts = {
        section: load_params(path).model_dump(mode="json") if section == "params" else files.read_json(path)
        for section, path in there.items()
    }
    if isinstance(facts.get("privacy"), dict):  # what the attacks say that they were held against
        facts["privacy"] |= {"digest": files.sha256_of_json(facts["privacy"])}
    return facts


def load_profile(path: Path, name: str) -> Profile:
    """Read profile `name` of gates.yaml.

    Raises:
        ConfigError: the file is missing or not YAML, the profile does not exist, or holds an unknown rule or key.
    """
    try:
        profiles = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; restore it from git.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}; mend that line.") from error
    if not isinstance(profiles, dict) or name not in profiles:
        raise ConfigError(f"{path} has no profile {name}; add it or choose another in registry.profile.")
    try:
        return Profile.model_validate(profiles[name])
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join((name, *(str(part) for part in first["loc"])))
        raise ConfigError(f"{path}: {place} is not valid ({first['msg']}); correct it.") from error


def check_gates(profile: Profile, facts: Mapping[str, Any]) -> list[GateResult]:
    """Hold `facts` (see `collect_facts`) against every gate of `profile`, in its order.

    A fact that is missing or of the wrong kind fails its gate. Without a task among the facts every gate is asked.
    """
    task = facts.get("params", {}).get("task")
    return [
        _check(name, gate, facts)
        for name, gate in profile.gates.items()
        if gate.task is None or task is None or gate.task == task
    ]


def _check(name: str, gate: Gate, facts: Mapping[str, Any]) -> GateResult:
    value = _look_up(facts, gate.key)
    rules = _rules(gate, value, facts)
    required = " and ".join(text for text, _ in rules)
    if value is _ABSENT:
        reason = f"{gate.key} is missing, so it cannot be judged; run the stage that writes it (dvc repro)"
        return GateResult(name=name, passed=False, value=None, required=required, reason=reason)
    passed = all(holds for _, holds in rules)
    judged = f", required is {required}" if passed else f" but must be {required}: {gate.why}"
    reason = f"{gate.key} is {_said(value)}{judged}"
    return GateResult(name=name, passed=passed, value=value, required=required, reason=reason)


def _rules(gate: Gate, value: Any, facts: Mapping[str, Any]) -> Sequence[tuple[str, bool]]:
    """(What is required, whether `value` fulfils it) for each rule of the gate."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    rules = []
    if gate.min is not None:
        rules.append((f"at least {gate.min}", number and value >= gate.min))
    if gate.max is not None:
        rules.append((f"at most {gate.max}", number and value <= gate.max))
    if gate.equals is not None:
        rules.append((_said(gate.equals), _equal(value, gate.equals)))
    if gate.within is not None:
        rules.append((f"one of {_said(gate.within)}", any(_equal(value, allowed) for allowed in gate.within)))
    if gate.same_as is not None:
        other = _look_up(facts, gate.same_as)
        rules.append((f"the same as {gate.same_as}", other is not _ABSENT and _equal(value, other)))
    return rules


def _look_up(facts: Mapping[str, Any], key: str) -> Any:
    value: Any = facts
    for part in key.split("."):
        if not isinstance(value, Mapping) or value.get(part) is None:
            return _ABSENT
        value = value[part]
    return value


def _equal(value: Any, other: Any) -> bool:
    """Equality without Python's True == 1."""
    return isinstance(value, bool) == isinstance(other, bool) and bool(value == other)


def _said(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_said(item) for item in value) or "empty"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
