"""The arms of the comparison: whose images, how they are brought together, and what is protected."""

from collections.abc import Sequence
from dataclasses import dataclass

from primia.config import Params

CENTRALISED, ALONE = "centralised", "alone"
IN_CLEAR, WITHOUT_PRIVACY, FEDERATED = "federated_clear", "federated_without_privacy", "federated"

_LABELS = {IN_CLEAR: "federated in clear", WITHOUT_PRIVACY: "federated without privacy"}
_PRIVACY_OFF = {"enabled": False}
_NO_BOUND = 1e30  # of the norm of a change; float64 squares of it do not overflow


@dataclass(frozen=True)
class Arm:
    """One way to train the model of params.yaml.

    `hospitals` are those whose images are used; `federated` says whether they stay at the hospital. `masked` and
    `private` say whether secure aggregation and differential privacy are on.
    """

    name: str
    hospitals: tuple[str, ...]
    federated: bool
    masked: bool = False
    private: bool = False

    @property
    def alone(self) -> bool:
        """Whether a single hospital trains on its own images."""
        return self.name.startswith(ALONE)

    def params(self, params: Params, *, seed: int) -> Params:
        """The parameters this arm is trained with.

        Where all images lie in one place there is no global model to be pulled to, no server to step, nothing to
        quantise and nobody whose influence must be bounded. Each image is used as often as in the federation, so that
        `local_steps` grow with the number of hospitals.
        """
        training = params.training.model_copy(update={"seed": seed})
        aggregation = params.secure_aggregation
        if not self.masked:
            aggregation = aggregation.model_copy(update={"scheme": "none"})
        if not self.federated:
            steps = training.local_steps
            training = training.model_copy(
                update={
                    "proximal": 0.0,
                    "local_normalisation": False,
                    "local_steps": None if steps is None else steps * len(self.hospitals),
                }
            )
            aggregation = aggregation.model_copy(update={"norm_bound": _NO_BOUND})
        return params.model_copy(
            update={
                "model": params.model.model_copy(update={"seed": seed}),
                "training": training,
                "secure_aggregation": aggregation,
                "privacy": params.privacy if self.private else params.privacy.model_copy(update=_PRIVACY_OFF),
            }
        )


@dataclass(frozen=True)
class Difference:
    """A paired difference of two arms, and what it is the price of; `minus` may be the mean over all lone hospitals."""

    arm: str
    minus: str
    shows: str

    @property
    def name(self) -> str:
        """A key for files, such as federated_minus_centralised."""
        return f"{self.arm}_minus_{self.minus}"


def label_of(name: str) -> str:
    """What a person reads for the name of an arm."""
    return _LABELS.get(name, name)


def arms_of(params: Params) -> tuple[Arm, ...]:
    """Every arm that differs from the others under `params`; the configured federation is the last one."""
    hospitals = params.preprocess.hospitals
    masked, private = params.secure_aggregation.scheme != "none", params.privacy.enabled
    arms = [Arm(CENTRALISED, hospitals, federated=False)]
    arms += [Arm(f"{ALONE}: {name}", (name,), federated=False) for name in hospitals]
    if masked:
        arms.append(Arm(IN_CLEAR, hospitals, federated=True))
    if private:
        arms.append(Arm(WITHOUT_PRIVACY, hospitals, federated=True, masked=masked))
    arms.append(Arm(FEDERATED, hospitals, federated=True, masked=masked, private=private))
    return tuple(arms)


def differences_of(arms: Sequence[Arm]) -> tuple[Difference, ...]:
    """The questions that these arms answer, each a paired difference."""
    masked = any(arm.name == IN_CLEAR for arm in arms)
    together = ["federation", *(["secure aggregation"] if masked else [])]
    if not any(arm.name == WITHOUT_PRIVACY for arm in arms):
        questions = [
            Difference(FEDERATED, CENTRALISED, f"the price of {' and '.join(together)}"),
            Difference(FEDERATED, ALONE, "what a hospital gains by taking part"),
            Difference(FEDERATED, IN_CLEAR, "the price of secure aggregation"),
        ]
    else:
        everything = ", ".join(together) + " and privacy"
        questions = [
            Difference(FEDERATED, CENTRALISED, f"the price of {everything} together"),
            Difference(FEDERATED, ALONE, "what a hospital gains by taking part, privacy paid"),
            Difference(FEDERATED, WITHOUT_PRIVACY, "the price of differential privacy"),
            Difference(WITHOUT_PRIVACY, CENTRALISED, f"the price of {' and '.join(together)}"),
            Difference(WITHOUT_PRIVACY, IN_CLEAR, "the price of secure aggregation"),
            Difference(FEDERATED, IN_CLEAR, "the price of secure aggregation and privacy"),
        ]
    there = {arm.name for arm in arms} | {ALONE}
    return tuple(question for question in questions if {question.arm, question.minus} <= there)
