"""What verdicts are bound to: the model, its privacy, the images, and the attacks that there must be."""

from dataclasses import dataclass, field

from primia.attacks.campaign import attacks_on, hash_of
from primia.attacks.scene import Scene

# What is published of patients whom no privacy budget covers: when their membership in the released model is asked for,
UNCOVERED = "figures on the training and validation patients in the stage attack (membership)"
# and when their images, and what attackers found of them, go into the report.
PICTURES = "images of test patients in the report (attack.pictures)"


@dataclass(frozen=True)
class Subject:
    """What reports are about.

    Attributes:
        model_digest: of the released model, whichever weights were attacked.
        privacy_digest: of privacy.json (`Statement.digest`); None where nothing was stated.
        data_hash: of all images (`hash_of`).
        required: name and round of every attack that applies to the training, at the budget.
        uncovered: what the attacks publish of patients whom no budget covers.
        pictures: whether images of patients, and those found by attackers, may be written.
    """

    model_digest: str
    privacy_digest: str | None
    data_hash: str
    required: tuple[tuple[str, str], ...]
    uncovered: tuple[str, ...] = field(default=())
    pictures: bool = False


def subject_of(scene: Scene) -> Subject:
    """What the reports of a campaign on `scene` are about."""
    real = not scene.synthetic and scene.settings.pictures
    return Subject(
        model_digest=scene.released.digest(),
        privacy_digest=scene.privacy_digest,
        data_hash=hash_of(*scene.images),
        required=tuple((attack.name, attack.round) for attack in attacks_on(scene)),
        uncovered=(*([] if scene.membership is None else [UNCOVERED]), *([PICTURES] if real else [])),
        pictures=scene.synthetic or scene.settings.pictures,
    )
