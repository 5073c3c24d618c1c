"""What sections of params.yaml demand of one another; each section checks itself in `primia.config`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primia.config import Params

PHANTOM_FOLDER = "primia/data/phantom"
PHANTOM_CLASSES = ("normal", "bacterial", "viral")


def check_consistency(params: "Params") -> None:
    """Raise ValueError, with one sentence, for the first rule that `params` breaks."""
    hospitals = len(params.preprocess.hospitals)
    if params.secure_aggregation.scheme != "none" and hospitals < 3:
        raise ValueError(
            f"preprocess.hospitals names {hospitals}, but secure aggregation needs at least 3 hospitals to hide "
            "one among them; add hospitals or set secure_aggregation.scheme to none"
        )
    if params.privacy.enabled and params.training.mixup:
        raise ValueError(
            "training.mixup blends images of different patients, so a clipped gradient would no longer belong to "
            "one patient; set training.mixup to 0 or privacy.enabled to false"
        )
    if params.privacy.enabled and params.training.class_weights:
        raise ValueError(
            "training.class_weights needs the hospitals' label counts, which differential privacy does not cover "
            "yet; set training.class_weights or privacy.enabled to false"
        )
    if params.privacy.enabled and params.privacy.trust == "distributed":
        _check_distributed(params)
    _check_encryption(params)
    if params.training.local_normalisation and params.model.architecture == "scattering":
        raise ValueError(
            "training.local_normalisation keeps normalisation layers at the hospitals, but the scattering model "
            "has none that learn; set it to false or choose another model.architecture"
        )
    if (
        params.ingest.source == "image_folder"
        and params.preprocess.dealing == "natural"
        and params.ingest.columns.hospital is None
    ):
        raise ValueError(
            "preprocess.dealing is natural, but ingest.columns.hospital names no column that says who is where; "
            "set preprocess.dealing to iid or dirichlet, or name the column"
        )
    if params.training.pretrain == "phantom":
        strange = [name for name in params.ingest.classes if name not in PHANTOM_CLASSES]
        if strange:
            raise ValueError(
                f"training.pretrain is phantom, but ingest.classes names {', '.join(strange)}, and phantoms show "
                f"only {', '.join(PHANTOM_CLASSES)}; set training.pretrain to none"
            )
    if params.ingest.source == "phantom" and params.ingest.folder != PHANTOM_FOLDER:
        raise ValueError(
            f"ingest.folder is {params.ingest.folder}, but the phantom source makes its own images; "
            f"set ingest.source to image_folder, or ingest.folder to {PHANTOM_FOLDER}"
        )


def _check_encryption(params: "Params") -> None:
    if params.encryption.data == "hospitals" and params.privacy.enabled:
        raise ValueError(
            "encryption.data is hospitals, but what a student learns of the hospitals' images is in no privacy "
            "budget; set it to phantoms, or privacy.enabled to false"
        )
    if params.model.architecture == "scattering":
        if params.encryption.data == "hospitals":
            raise ValueError(
                "encryption.data is hospitals, but the scattering model answers encrypted images itself and has no "
                "student to teach; set it to phantoms"
            )
    elif params.encryption.pixels > params.preprocess.pixels:
        raise ValueError(
            f"encryption.pixels is {params.encryption.pixels}, but images have preprocess.pixels "
            f"{params.preprocess.pixels}; a student cannot see more than its teacher"
        )


def _check_distributed(params: "Params") -> None:
    wanted: dict[str, tuple[object, object]] = {
        "privacy.local_steps": (params.privacy.local_steps, 1),
        "training.proximal": (params.training.proximal, 0.0),
        "training.local_normalisation": (params.training.local_normalisation, False),
    }
    for key, (value, needed) in wanted.items():
        if value != needed:
            raise ValueError(
                f"{key} is {str(value).lower()}, but with privacy.trust distributed a round is one step whose "
                f"noise only the sum carries; set it to {str(needed).lower()}, or privacy.trust to local"
            )
    if params.secure_aggregation.scheme == "none":
        raise ValueError(
            "privacy.trust is distributed, but secure_aggregation.scheme is none, so each hospital's share of the "
            "noise would have to protect its patients alone; set the scheme to masking or privacy.trust to local"
        )
