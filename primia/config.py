"""params.yaml as strict, frozen models; every stage receives only the part it needs."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from primia.consistency import check_consistency
from primia.errors import ConfigError
from primia.intake_settings import OUTPUTS, Columns, Ingest, Name, Phantom, Preprocess, Section, Seed, Volume

__all__ = [
    "OUTPUTS",
    "Attack",
    "Columns",
    "Comparison",
    "Encryption",
    "Evaluation",
    "Federation",
    "Ingest",
    "Loss",
    "Model",
    "Params",
    "Phantom",
    "Preprocess",
    "Privacy",
    "Registry",
    "SecureAggregation",
    "Server",
    "Task",
    "Training",
    "Volume",
    "load_params",
    "parse_params",
]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Task = Literal["classification", "segmentation"]
Loss = Literal["cross_entropy", "dice", "dice_cross_entropy"]


class Model(Section):
    """Architecture that is trained together."""

    architecture: Literal["scattering", "convnet", "resnet9", "resnet18", "unet", "unet_resnet18", "monet", "jet"]
    weight_standardisation: bool = False
    seed: Seed = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.weight_standardisation and self.architecture == "scattering":
            raise ValueError(
                "model.weight_standardisation is true, but the scattering model learns no convolution; "
                "set it to false or choose another model.architecture"
            )
        return self


class Training(Section):
    """Local training without differential privacy.

    `loss`, `threads`, `schedule`, `proximal`, `local_normalisation` and `pretrain` hold with it, too.
    """

    loss: Loss = "cross_entropy"
    pretrain: Literal["none", "phantom"] = "none"
    pretrain_patients: int = Field(default=1500, ge=30, le=100_000)
    pretrain_epochs: int = Field(default=5, ge=1, le=1000)
    pretrain_learning_rate: float = Field(default=1e-4, gt=0.0, le=100.0)
    local_epochs: int = Field(default=1, ge=1, le=100)
    local_steps: int | None = Field(default=None, ge=1, le=100_000)
    batch_size: int = Field(default=32, ge=1, le=4096)
    learning_rate: float = Field(gt=0.0, le=100.0)
    weight_decay: float = Field(default=0.0, ge=0.0, le=1.0)
    schedule: Literal["constant", "cosine"] = "constant"
    proximal: float = Field(default=0.0, ge=0.0, le=100.0)
    local_normalisation: bool = False
    class_weights: bool = False
    augment: bool = True
    mixup: float = Field(default=0.0, ge=0.0, le=10.0)
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = Field(default=1, ge=1, le=256)
    seed: Seed = 1


class Server(Section):
    """How the coordinator moves the global model by the mean change (Reddi et al. 2021)."""

    optimiser: Literal["fedavg", "fedadam"] = "fedavg"
    learning_rate: float = Field(default=1.0, gt=0.0, le=100.0)
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    tau: float = Field(default=1e-3, gt=0.0, le=1.0)


class Federation(Section):
    """Rounds of the federation."""

    rounds: int = Field(ge=1, le=10_000)
    average: Fraction = 0.0
    release: Literal["last", "best"] = "last"
    server: Server = Server()
    patience: int | None = Field(default=None, ge=1, le=10_000)
    rollback_margin: float | None = Field(default=None, gt=0.0, le=2.0)
    deadline_s: float = Field(default=600.0, gt=0.0)


class SecureAggregation(Section):
    """How updates are summed; integers modulo 2^32."""

    scheme: Literal["masking", "ckks", "none"] = "masking"
    bits: int = Field(default=20, ge=8, le=28)
    clip_range: float = Field(default=0.25, gt=0.0)
    norm_bound: float = Field(default=10.0, gt=0.0)


class Privacy(Section):
    """Differential privacy per patient (DP-SGD at the sites)."""

    enabled: bool = True
    trust: Literal["local", "distributed"] = "local"
    curious: int = Field(default=1, ge=1, le=100)
    target_epsilon: float = Field(default=8.0, ge=0.01, le=100.0)
    delta: float = Field(default=1e-4, gt=0.0, lt=1.0)
    clip_norm: float = Field(default=1.0, gt=0.0)
    sampling_rate: float = Field(default=0.25, gt=0.0, le=1.0)
    site_population: int = Field(default=200, ge=1)
    views: int = Field(default=1, ge=1, le=64)
    local_steps: int = Field(default=2, ge=1, le=10_000)
    learning_rate: float = Field(default=1.0, gt=0.0, le=1000.0)
    statistics_noise: float = Field(default=10.0, gt=0.0, le=10_000.0)


class Comparison(Section):
    """The same model trained centrally, by each hospital alone, and without secure aggregation."""

    enabled: bool = False
    seeds: tuple[Seed, ...] = Field(default=(1,), min_length=1, max_length=10, strict=False)


class Evaluation(Section):
    """Utility on the test patients."""

    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    tolerance: float = Field(default=1.0, gt=0.0, le=100.0)
    worst: int = Field(default=3, ge=1, le=100)
    pictures: bool = False
    seed: Seed = 1


class Attack(Section):
    """Privacy attacks against the training that was done."""

    budget: Literal["quick", "standard", "full"] = "quick"
    membership: Literal["released", "stand_in"] = "stand_in"
    gallery: int = Field(default=64, ge=8, le=4096)
    confidence: float = Field(default=0.999, ge=0.9, lt=0.999999)
    pictures: bool = False
    seed: Seed = 1


class Encryption(Section):
    """The network that answers on encrypted images; all but `profile` and `images` is about a student."""

    profile: Literal["fast", "deep"] = "fast"
    data: Literal["phantoms", "hospitals"] = "phantoms"
    pixels: int = Field(default=28, ge=8, le=256)
    phantom_patients: int = Field(default=900, ge=30, le=100_000)
    epochs: int = Field(default=30, ge=1, le=1000)
    learning_rate: float = Field(default=2e-3, gt=0.0, le=1.0)
    rounds: int = Field(default=10, ge=1, le=10_000)
    local_epochs: int = Field(default=1, ge=1, le=100)
    hospital_learning_rate: float = Field(default=0.02, gt=0.0, le=1.0)
    images: int = Field(default=16, ge=1, le=10_000)
    seed: Seed = 1

    @model_validator(mode="after")
    def _packable(self) -> Self:
        if self.pixels > 64 and self.pixels % 8:
            raise ValueError(
                f"encryption.pixels is {self.pixels}, but above 64 an image is cut into patches of 8 x 8; "
                f"set it to {8 * round(self.pixels / 8)}"
            )
        return self


class Registry(Section):
    """Name of the registered model and the gate profile it must pass."""

    name: Name = "primia-chest"
    profile: Literal["demo", "clinical"] = "demo"


class Params(Section):
    """All of params.yaml."""

    task: Task = "classification"
    ingest: Ingest
    preprocess: Preprocess
    model: Model
    training: Training
    federation: Federation
    secure_aggregation: SecureAggregation
    privacy: Privacy
    comparison: Comparison
    evaluation: Evaluation
    attack: Attack
    encryption: Encryption
    registry: Registry

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        check_consistency(self)
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        ConfigError: one sentence naming the key, its value and what is allowed.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing; run the command from the folder that holds it.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}; mend that line.") from error
    return parse_params(raw, where=str(path))


def parse_params(raw: Any, *, where: str = "params.yaml") -> Params:
    """Check an already parsed mapping; see `load_params`."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} holds no mapping of sections; restore it from git.")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"])
    more = f" ({len(others)} more after this one)" if others else ""
    match first["type"]:
        case "extra_forbidden":
            return f"{key} is not a known key; remove it or correct its spelling{more}."
        case "missing":
            return f"{key} is missing; add it{more}."
        case "value_error":
            return first["msg"].removeprefix("Value error, ") + more + "."
        case _:
            wanted = first["msg"][0].lower() + first["msg"][1:]
            return f"{key} is {first['input']!r}, but {wanted}; correct it{more}."
