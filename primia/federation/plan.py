"""The public constants of one run, agreed by all sites before anything is computed, and their digest."""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from primia.config import Model, SecureAggregation, Server, Training, Volume
from primia.consistency import SEGMENTING
from primia.errors import ProtocolError
from primia.federation.messages import Digest, Name
from primia.models.networks import Network, build_network
from primia.models.released import ReleasedModel
from primia.privacy.accounting import Release
from primia.privacy.shares import NoiseShare, share_plan
from primia.secagg.quantise import Quantiser
from primia.secagg.session import Purpose, RunName

UNNAMED = "unnamed-run"  # until the roll has been called


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Hospital(_Part):
    """One entry of the roster: Ed25519 public key and keyed hash of the data, both in hexadecimal."""

    identity: Digest
    data: Digest


class PrivacyPlan(_Part):
    """Differential privacy: unit of protection is the patient; no field depends on a site's data.

    With the trust model `local` every site's change is private by itself, with `distributed` the sum over the sites is,
    though `curious` of them pool what they know with the coordinator.

    `expected_batch` = sampling_rate x site_population is the public divisor of a step's noisy sum. `statistics_noise`
    and `validation_noise` are noise multipliers of the other two sums. The training patients pay for statistics and
    training, the validation patients for the validation; both keep to `target_epsilon`.
    """

    trust: Literal["local", "distributed"]
    curious: int = Field(ge=1, le=100)
    target_epsilon: float = Field(gt=0.0)
    delta: float = Field(gt=0.0, lt=1.0)
    clip_norm: float = Field(ge=1e-6, le=1e6)
    noise_multiplier: float = Field(gt=0.0, le=1e4)
    sampling_rate: float = Field(gt=0.0, le=1.0)
    site_population: int = Field(ge=1, le=10**9)
    expected_batch: float = Field(gt=0.0, le=1e9)
    views: int = Field(ge=1, le=64)
    local_steps: int = Field(ge=1, le=10_000)
    learning_rate: float = Field(gt=0.0, le=1e3)
    # Far more noise than this would need more than the 53 bits that it is drawn with.
    statistics_noise: float = Field(gt=0.0, le=1e4)
    validation_noise: float = Field(gt=0.0, le=1e4)

    def release(self, purpose: Purpose) -> Release:
        """What a hospital spends on its patients when it answers once for `purpose`."""
        match purpose:
            case "statistics":
                return Release(sampling_rate=1.0, noise_multiplier=self.statistics_noise, steps=1)
            case "train":
                return Release(
                    sampling_rate=self.sampling_rate,
                    noise_multiplier=self.noise_multiplier,
                    steps=self.local_steps,
                    discrete=self.trust == "distributed",
                )
            case "evaluate":
                return Release(sampling_rate=1.0, noise_multiplier=self.validation_noise, steps=1)


class StudentPlan(_Part):
    """The polynomial network that a run teaches; `Plan.model` then names the architecture of its teacher.

    The student is what `build_student` makes for `pixels` and the plan's classes, without batch-norm. `start` is the
    digest of the weights that round 1 starts from, and `mean` and `std` standardise what it sees. `teacher` is the
    digest of the released model that is imitated (`ReleasedModel.digest`), which standardises by its own mean and
    deviation, and `spread` the unit of its logits in the loss.
    """

    pixels: int = Field(ge=1, le=4096)
    start: Digest
    mean: float = Field(ge=0.0, le=1.0)
    std: float = Field(gt=0.0, le=1.0)
    teacher: Digest
    teacher_mean: float = Field(ge=0.0, le=1.0)
    teacher_std: float = Field(gt=0.0, le=1.0)
    spread: float = Field(ge=1e-6, le=1e6)


class Plan(_Part):
    """Everything that decides the result of a run, in order that each site can check it before it takes part.

    `threshold` is the number of hospitals that must stay to the end of every sum. `volume` says how images come from
    volumes, if they do. `student` is there if the run teaches a student instead of training a model on labels.
    """

    protocol: Literal[5] = 5
    run: RunName
    hospitals: dict[Name, Hospital] = Field(min_length=1, max_length=100)
    threshold: int = Field(ge=1, le=100)
    classes: tuple[str, ...] = Field(min_length=2)
    pixels: int = Field(ge=1)
    volume: Volume | None = None
    synthetic: bool
    model: Model
    rounds: int = Field(ge=1)
    average: Annotated[float, Field(ge=0.0, lt=1.0)]
    release: Literal["last", "best"]
    server: Server
    patience: int | None = Field(ge=1)
    rollback_margin: float | None = Field(gt=0.0)
    training: Training
    secure_aggregation: SecureAggregation
    weights: Literal["images", "equal"]
    privacy: PrivacyPlan | None
    student: StudentPlan | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Weights by image count would make the sensitivity of a private sum depend on the data.
        if self.weights != ("images" if self.privacy is None else "equal"):
            raise ValueError("weights are equal with differential privacy and image counts without")
        if self.distributed:
            assert self.privacy is not None
            one_step = self.privacy.local_steps == 1 and self.training.proximal == 0
            if not one_step or self.training.local_normalisation or not self.masked:
                raise ValueError("distributed noise is for one masked step a round, without a proximal or local part")
            if self.privacy.curious >= self.threshold:
                raise ValueError("distributed noise needs an honest hospital in every sum")
        return self

    @property
    def segments(self) -> bool:
        """Whether the model marks structures instead of naming one class of an image."""
        return self.model.architecture in SEGMENTING

    @property
    def depth(self) -> int | None:
        """Slices of an image that is a volume; None for flat images."""
        return None if self.volume is None else self.volume.depth

    def network(self) -> Network:
        """The network with the weights it is drawn with."""
        return build_network(
            self.model.architecture,
            classes=len(self.classes),
            pixels=self.pixels,
            depth=self.depth,
            seed=self.model.seed,
            weight_standardisation=self.model.weight_standardisation,
        )

    def released(self, network: Network, *, mean: float, std: float, round: int) -> ReleasedModel:
        """`network`, with weights of this plan, as it leaves the federation; see `ReleasedModel`."""
        return ReleasedModel(
            network=network.eval(),
            architecture=self.model.architecture,
            weight_standardisation=self.model.weight_standardisation,
            classes=self.classes,
            pixels=self.pixels,
            volume=self.volume,
            mean=mean,
            std=std,
            round=round,
        )

    @property
    def masked(self) -> bool:
        """Whether sums are masked."""
        return self.secure_aggregation.scheme != "none"

    @property
    def distributed(self) -> bool:
        """Whether only the sum over the hospitals carries the noise."""
        return self.privacy is not None and self.privacy.trust == "distributed"

    def noise_share(self, parameters: int) -> NoiseShare:
        """The grid and noise of a hospital's part in a private sum of gradients with so many `parameters`.

        Raises:
            PrivacyError: too few hospitals are honest, or the sum could leave 32 bits.
        """
        privacy = self.privacy
        assert privacy is not None and self.distributed
        share = share_plan(
            clip_norm=privacy.clip_norm,
            noise_multiplier=privacy.noise_multiplier,
            hospitals=len(self.hospitals),
            threshold=self.threshold,
            curious=privacy.curious,
            parameters=parameters,
        )
        share.check_headroom(
            population=privacy.site_population * len(self.hospitals), sampling_rate=privacy.sampling_rate
        )
        return share

    @property
    def encrypted(self) -> bool:
        """Whether masked vectors are encrypted, too, under a key of the sites."""
        return self.secure_aggregation.scheme == "ckks"

    @property
    def quantiser(self) -> Quantiser:
        """The grid of one site's change of the model."""
        return Quantiser(bits=self.secure_aggregation.bits, limit=self.secure_aggregation.clip_range)

    def canonical(self) -> bytes:
        """The plan's one encoding: JSON with sorted keys and no spaces."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def digest(self) -> str:
        """SHA-256 of `canonical`, in hexadecimal."""
        return hashlib.sha256(self.canonical()).hexdigest()

    def fingerprint(self) -> str:
        """The digest without the name of the run: equal for two runs of the same plan."""
        return self.model_copy(update={"run": UNNAMED}).digest()


def read_plan(raw: bytes) -> Plan:
    """Read a plan in canonical form.

    Raises:
        ProtocolError: it is no plan, or written in another than the canonical form.
    """
    try:
        plan = Plan.model_validate_json(raw)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise ProtocolError(f"The plan has a wrong or missing field: {where or 'weights'}.") from None
    if plan.canonical() != raw:
        raise ProtocolError("The plan is not written in its canonical form.")
    return plan
