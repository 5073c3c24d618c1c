"""The command `primia segment`: a mask for one volume, on the grid that the volume came with."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy import float64, uint8
    from numpy.typing import NDArray

    from primia.models.released import ReleasedModel

DISCLAIMER = "Research software, not a medical device: no diagnosis may rest on this mask."

Volume = Annotated[Path, typer.Argument(help="A NIfTI file, .nii or .nii.gz.", metavar="VOLUME")]
Model = Annotated[
    str, typer.Option(help="Folder of the model, or models:/NAME@champion or models:/NAME/VERSION in the registry.")
]
Out = Annotated[
    Path | None, typer.Option(help="File for the mask; without it, VOLUME_mask.nii.gz beside it.", metavar="FILE")
]

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a mask that is there.")]
Partly = Annotated[bool, typer.Option("--partly", help="Mark the middle of a volume that the model sees little of.")]

_LEAST_SEEN = 0.5  # of a volume
_DATA_SET = ("imagesTr", "labelsTr")  # of which every file is somebody's volume or truth


def segment(
    volume: Volume,
    model: Model = "models/federated",
    out: Out = None,
    overwrite: Overwrite = False,
    partly: Partly = False,
) -> None:
    """Mark structures in a volume, and write a mask with the same grid and affine: it overlays voxel by voxel."""
    from primia.data.nifti import is_blank, read_volume, stem_of, write_mask
    from primia.models.marking import mark, share_seen
    from primia.models.places import model_folder
    from primia.models.released import load_model

    target = out or volume.with_name(f"{stem_of(volume.name)}_mask.nii.gz")
    if not target.name.lower().endswith((".nii", ".nii.gz")):
        raise DataError(f"The mask {target} would be no NIfTI file by its name; end it in .nii or .nii.gz.")
    if target.resolve() == volume.resolve():
        raise DataError(f"The mask would replace the volume {volume}; name another file with --out.")
    if not {*target.resolve().parent.parts}.isdisjoint(_DATA_SET):
        raise DataError(f"The mask {target} would lie among the files of a data set; name another file with --out.")
    _require_free(target, overwrite=overwrite)
    network = load_model(model_folder(model))
    if not network.segments or network.volume is None:
        raise ConfigError(f"The model {model} marks nothing in volumes; train one with task: segmentation on volumes.")
    image = read_volume(volume)
    if is_blank(image):
        raise DataError(
            f"The volume {volume} has the same value in all voxels, so that it shows nothing; give another."
        )
    seen = share_seen(network, image)
    if seen < _LEAST_SEEN and not partly:
        raise DataError(
            f"The model sees {seen:.0%} of {volume}, about its middle: it was made for smaller volumes; cut the volume "
            "out around the structure, or mark only that part of it with --partly."
        )
    classes = mark(network, image)
    write_mask(target, classes, like=image)
    _print(network, classes, voxel=_voxel_ml(image.affine))
    if not classes.any():
        typer.echo("Nothing is marked: look whether the volume shows what the model was made for, in the same voxels.")
    if seen < 1:
        typer.echo(f"The model sees {seen:.0%} of the volume, about its middle; outside nothing is marked.")
    typer.echo(f"The mask is {target}. {DISCLAIMER}")


def _require_free(target: Path, *, overwrite: bool) -> None:
    try:
        if target.is_dir():
            raise DataError(f"The mask {target} would be a folder's name; name a file with --out.")
        if target.exists() and not overwrite:
            raise DataError(f"{target} is there already; name another file with --out, or replace it with --overwrite.")
    except OSError as error:  # a name that is too long
        raise DataError(f"The mask {target} cannot be written ({error.strerror}); name another file.") from error


def _voxel_ml(affine: "NDArray[float64]") -> float:
    import numpy as np

    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000


def _print(model: "ReleasedModel", classes: "NDArray[uint8]", *, voxel: float) -> None:
    """How much of each structure was marked: an empty mask should not look like a success."""
    width = max(map(len, model.classes))
    for number, name in enumerate(model.classes[1:], start=1):
        voxels = int((classes == number).sum())
        typer.echo(f"{number} {name:<{width}}  {voxels:>9} voxels  {voxels * voxel:8.2f} ml")
