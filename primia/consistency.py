"""What sections of params.yaml demand of one another; each section checks itself in `primia.config`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primia.config import Params

PHANTOM_FOLDER = "primia/data/phantom"
PHANTOM_CLASSES = ("normal", "bacterial", "viral")
PHANTOM_STRUCTURES = ("background", "lungs")
SEGMENTING = frozenset({"jet", "unet", "unet_resnet18", "monet"})  # architectures that give a class to every pixel


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
    _check_task(params)
    _check_source(params)
    if params.task == "segmentation":
        _check_segmentation(params)
    else:
        _check_encryption(params)
    if params.training.local_normalisation and params.model.architecture == "scattering":
        raise ValueError(
            "training.local_normalisation keeps normalisation layers at the hospitals, but the scattering model "
            "has none that learn; set it to false or choose another model.architecture"
        )
    if params.training.pretrain == "phantom":
        _check_pretraining(params)


def _check_task(params: "Params") -> None:
    architecture, segments = params.model.architecture, params.model.architecture in SEGMENTING
    if segments and params.task == "classification":
        raise ValueError(
            f"model.architecture is {architecture}, which gives a class to every pixel, but task is classification; "
            f"set task to segmentation or choose an architecture other than {', '.join(sorted(SEGMENTING))}"
        )
    if params.task == "segmentation" and not segments:
        raise ValueError(
            f"task is segmentation, but model.architecture is {architecture}, which gives one class to a whole image; "
            f"choose one of {', '.join(sorted(SEGMENTING))}"
        )
    if params.task == "classification" and params.training.loss != "cross_entropy":
        raise ValueError(
            f"training.loss is {params.training.loss}, which compares masks, but task is classification; set it to "
            "cross_entropy or task to segmentation"
        )


def _check_source(params: "Params") -> None:
    source = params.ingest.source
    if source == "phantom" and params.ingest.folder != PHANTOM_FOLDER:
        raise ValueError(
            f"ingest.folder is {params.ingest.folder}, but the phantom source makes its own images; "
            f"set ingest.source to image_folder or nifti, or ingest.folder to {PHANTOM_FOLDER}"
        )
    if source == "nifti" and params.task == "classification":
        raise ValueError(
            "ingest.source is nifti, volumes with masks, but task is classification; set task to segmentation"
        )
    if source == "image_folder" and params.task == "segmentation":
        raise ValueError(
            "ingest.source is image_folder, which has no masks, but task is segmentation; set ingest.source to nifti, "
            "or task to classification"
        )
    if (source == "nifti") != (params.preprocess.volume is not None):
        raise ValueError(
            f"ingest.source is {source}, but preprocess.volume "
            + (
                "is null; say there how a volume becomes images (spacing, window, depth)"
                if source == "nifti"
                else "says how a volume becomes images; set it to null"
            )
        )
    if source != "nifti" and params.ingest.label_values is not None:
        raise ValueError(
            f"ingest.label_values says what the values in mask files mean, but ingest.source {source} reads none; "
            "set it to null"
        )
    if source != "phantom" and params.preprocess.dealing == "natural" and params.ingest.columns.hospital is None:
        raise ValueError(
            "preprocess.dealing is natural, but ingest.columns.hospital names no column that says who is where; "
            f"set preprocess.dealing to {'iid' if source == 'nifti' else 'iid or dirichlet'}, or name the column"
        )


def _check_segmentation(params: "Params") -> None:
    if params.ingest.source == "phantom" and params.ingest.classes != PHANTOM_STRUCTURES:
        raise ValueError(
            f"ingest.classes is {', '.join(params.ingest.classes)}, but the masks of phantoms show "
            f"{', '.join(PHANTOM_STRUCTURES)}; set it to those, in that order"
        )
    if params.preprocess.dealing == "dirichlet":
        raise ValueError(
            "preprocess.dealing is dirichlet, which deals patients by their class, but with task segmentation a "
            "patient has none; set it to iid"
        )
    if params.training.class_weights:
        raise ValueError(
            "training.class_weights counts one class an image, which masks do not have; set it to false, or "
            "training.loss to dice_cross_entropy, which minds small structures"
        )
    if params.training.mixup:
        raise ValueError("training.mixup blends the classes of whole images, not masks; set it to 0")


def _check_pretraining(params: "Params") -> None:
    if params.task == "segmentation":
        # The lungs of phantoms teach the trunk, whatever the structures are; but phantoms are flat.
        if params.preprocess.volume is not None and params.preprocess.volume.depth is not None:
            raise ValueError(
                f"training.pretrain is phantom, but preprocess.volume.depth is {params.preprocess.volume.depth} and "
                "phantoms are flat; set training.pretrain to none, or preprocess.volume.depth to null"
            )
        return
    strange = [name for name in params.ingest.classes if name not in PHANTOM_CLASSES]
    if strange:
        raise ValueError(
            f"training.pretrain is phantom, but ingest.classes names {', '.join(strange)}, and phantoms show "
            f"only {', '.join(PHANTOM_CLASSES)}; set training.pretrain to none"
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
