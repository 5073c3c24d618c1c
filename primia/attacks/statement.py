"""privacy.json, as the attacks read it: what a training says of its privacy, on which every bound stands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from primia.errors import DataError
from primia.files import read_json, sha256_of_json


class _Said(BaseModel):
    # The federation says more than the attacks ask for.
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Terms(_Said):
    """The privacy of a training: what was drawn and accounted, and not what params.yaml asks for today.

    The first six decide ε, as in `primia.attacks.scene.Declared`; `local_steps` are the steps of a round. Noise in
    shares (`distributed`) is that of `threshold` of the `hospitals`, of which `curious` tell theirs.
    """

    trust: Literal["local", "distributed"]
    noise_multiplier: float = Field(gt=0.0)
    sampling_rate: float = Field(gt=0.0, le=1.0)
    steps: int = Field(ge=1)
    statistics_noise: float = Field(gt=0.0)
    delta: float = Field(gt=0.0, lt=1.0)
    epsilon: float = Field(gt=0.0)
    clip_norm: float = Field(gt=0.0)
    local_steps: int = Field(ge=1)
    views: int = Field(ge=1)
    learning_rate: float = Field(gt=0.0)
    expected_batch: float = Field(gt=0.0)
    hospitals: int = Field(ge=1)
    threshold: int = Field(ge=1)
    curious: int = Field(ge=1)


class _Kind(_Said):
    enabled: bool
    synthetic: bool


@dataclass(frozen=True)
class Statement:
    """What is known of how a model was trained.

    Attributes:
        terms: of its differential privacy; None without.
        synthetic: whether the patients are nobody.
        digest: SHA-256 of the content of privacy.json (`sha256_of_json`); None without such a file.
    """

    terms: Terms | None
    synthetic: bool
    digest: str | None


UNSTATED = Statement(terms=None, synthetic=False, digest=None)


def read_statement(path: Path) -> Statement:
    """Read privacy.json of a federation.

    Raises:
        DataError: the file is missing, no JSON, or does not say what the attacks must know.
    """
    content: Any = read_json(path)
    try:
        kind = _Kind.model_validate(content)
        terms = Terms.model_validate(content) if kind.enabled else None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        wrong = f"{key}: {first['msg']}" if key else "it holds no keys"
        raise DataError(
            f"{path} does not say how private the training was ({wrong}); run the stage federate again, or give the "
            "file that it wrote."
        ) from error
    return Statement(terms=terms, synthetic=kind.synthetic, digest=sha256_of_json(content))
