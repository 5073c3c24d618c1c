"""Where an encrypted network comes from, and whether a privacy guarantee covers it."""

from dataclasses import dataclass
from typing import Literal

from primia.errors import EncryptionError

Data = Literal["none", "phantoms", "hospitals"]


@dataclass(frozen=True)
class Provenance:
    """What a reviewer must know of an encrypted network.

    network: whether the released model answers itself or a student of it. data: whose images the student was taught
    on. covered: whether the release's differential privacy holds for the network, too; covered_by: by what, or why not.
    """

    network: Literal["model itself", "student"]
    data: Data
    covered: bool
    covered_by: str


def provenance(*, itself: bool, data: Data, private: bool) -> Provenance:
    """Judge an encrypted network; what is computed from a private release alone stays private (Dwork & Roth 2014, 2.1).

    Args:
        itself: the released model answers itself.
        data: what a student was taught on.
        private: the released model was trained with differential privacy, as results/federation/privacy.json tells.

    Raises:
        EncryptionError: the model is private, but its student saw the hospitals' images.
    """
    if itself:
        covered_by = "post-processing of the private release" if private else "no guarantee, like the release"
        return Provenance("model itself", "none", private, covered_by)
    if data == "hospitals":
        if private:
            raise EncryptionError(
                "The released model is private, but its student was to be taught at the hospitals, which no budget "
                "covers; set encryption.data to phantoms."
            )
        return Provenance("student", data, False, "hospitals, no guarantee")
    assert data == "phantoms"
    covered_by = "public phantoms and post-processing of the private release"
    return Provenance("student", data, private, covered_by if private else "no guarantee, like its teacher")
