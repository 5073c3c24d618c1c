"""params.yaml as strict, frozen models; every stage receives only the part it needs."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from primia.consistency import check_consistency
from primia.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]


# What the stages of dvc.yaml write; DVC deletes these before a stage runs.
OUTPUTS = (("data", "raw"), ("data", "sites"), ("data", "test"), ("models",), ("results",))


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Columns(_Section):
    """Column names of a labels file; `hospital` and `split` may be absent (null)."""

    path: str = "path"
    label: str = "label"
    patient: str = "patient"
    hospital: str | None = None
    split: str | None = None


class Phantom(_Section):
    """Size of the embedded synthetic data set."""

    patients: int = Field(default=900, ge=30, le=100_000)
    pixels: int = Field(default=96, ge=32, le=512)
    seed: Seed = 1


class Ingest(_Section):
    """Where images come from and which files are accepted."""

    source: Literal["phantom", "image_folder"]
    folder: str
    classes: tuple[Name, ...] = Field(min_length=2, max_length=32, strict=False)
    labels_file: str | None = None
    columns: Columns = Columns()
    overlap: Literal["refuse", "drop_from_training"] = "refuse"
    max_refused: int = Field(default=0, ge=0)
    mixed_sizes: bool = False
    phantom: Phantom = Phantom()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("ingest.classes names a class twice; name each class once")
        if Path(self.folder).parts[:2] in OUTPUTS or Path(self.folder).parts[:1] in OUTPUTS:
            raise ValueError(
                f"ingest.folder is {self.folder}, which the pipeline deletes and writes anew; "
                "keep your images somewhere else"
            )
        if self.labels_file is None and (self.columns.hospital or self.columns.split):
            raise ValueError(
                "ingest.columns names a hospital or split column, but ingest.labels_file is null; "
                "name the labels file, or set both columns to null"
            )
        return self


class Preprocess(_Section):
    """Image size, hospitals, and how patients are dealt to them."""

    pixels: int = Field(ge=16, le=512)
    hospitals: tuple[Name, ...] = Field(min_length=1, max_length=100, strict=False)
    dealing: Literal["natural", "iid", "dirichlet"] = "iid"
    dirichlet_alpha: float = Field(default=0.5, gt=0.0, le=1000.0)
    test_fraction: Fraction = 0.2
    validation_fraction: float = Field(default=0.15, gt=0.0, lt=1.0)
    seed: Seed = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.hospitals)) != len(self.hospitals):
            raise ValueError("preprocess.hospitals names a hospital twice; give each its own name")
        return self


class Model(_Section):
    """Architecture that is trained together."""

    architecture: Literal["scattering", "convnet", "resnet9", "resnet18"]
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


class Training(_Section):
    """Local training without differential privacy.

    `threads`, `schedule`, `proximal`, `local_normalisation` and `pretrain` hold with it, too.
    """

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


class Server(_Section):
    """How the coordinator moves the global model by the mean change (Reddi et al. 2021)."""

    optimiser: Literal["fedavg", "fedadam"] = "fedavg"
    learning_rate: float = Field(default=1.0, gt=0.0, le=100.0)
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    tau: float = Field(default=1e-3, gt=0.0, le=1.0)


class Federation(_Section):
    """Rounds of the federation."""

    rounds: int = Field(ge=1, le=10_000)
    average: Fraction = 0.0
    release: Literal["last", "best"] = "last"
    server: Server = Server()
    patience: int | None = Field(default=None, ge=1, le=10_000)
    rollback_margin: float | None = Field(default=None, gt=0.0, le=2.0)
    deadline_s: float = Field(default=600.0, gt=0.0)


class SecureAggregation(_Section):
    """How updates are summed; integers modulo 2^32."""

    scheme: Literal["masking", "ckks", "none"] = "masking"
    bits: int = Field(default=20, ge=8, le=28)
    clip_range: float = Field(default=0.25, gt=0.0)
    norm_bound: float = Field(default=10.0, gt=0.0)


class Privacy(_Section):
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


class Comparison(_Section):
    """The same model trained centrally, by each hospital alone, and without secure aggregation."""

    enabled: bool = False
    seeds: tuple[Seed, ...] = Field(default=(1,), min_length=1, max_length=10, strict=False)


class Evaluation(_Section):
    """Utility on the test patients."""

    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    seed: Seed = 1


class Attack(_Section):
    """Privacy attacks against the training that was done."""

    budget: Literal["quick", "standard", "full"] = "quick"
    membership: Literal["released", "stand_in"] = "stand_in"
    gallery: int = Field(default=64, ge=8, le=4096)
    confidence: float = Field(default=0.999, ge=0.9, lt=0.999999)
    pictures: bool = False
    seed: Seed = 1


class Encryption(_Section):
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


class Registry(_Section):
    """Name of the registered model and the gate profile it must pass."""

    name: Name = "primia-chest"
    profile: Literal["demo", "clinical"] = "demo"


class Params(_Section):
    """All of params.yaml."""

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
