"""The sections of params.yaml about images: where they come from, and what becomes of them before training."""

from itertools import chain
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
Millimetres = Annotated[float, Field(gt=0.0, le=100.0)]
Values = Annotated[tuple[int, ...], Field(min_length=1, strict=False)]

# What the stages of dvc.yaml write; DVC deletes these before a stage runs.
OUTPUTS = (("data", "raw"), ("data", "sites"), ("data", "test"), ("models",), ("results",))


class Section(BaseModel):
    """A section of params.yaml: no unknown key, no conversion of types, no change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Columns(Section):
    """Column names of a labels file; `hospital` and `split` may be absent (null), and masks need no `label`."""

    path: str = "path"
    label: str = "label"
    patient: str = "patient"
    hospital: str | None = None
    split: str | None = None


class Phantom(Section):
    """Size of the embedded synthetic data set."""

    patients: int = Field(default=900, ge=30, le=100_000)
    pixels: int = Field(default=96, ge=32, le=512)
    seed: Seed = 1


class Ingest(Section):
    """Where images come from and which files are accepted.

    Of images with masks, `classes` are the structures, and the first of them is what no other structure covers.
    `label_values` says which values in a mask file are which class; see `primia.data.masks`.
    """

    source: Literal["phantom", "image_folder", "nifti"]
    folder: str
    classes: tuple[Name, ...] = Field(min_length=2, max_length=32, strict=False)
    label_values: dict[Name, Values] | None = None
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
        if self.label_values is not None:
            self._check_label_values(self.label_values)
        return self

    def _check_label_values(self, label_values: dict[Name, Values]) -> None:
        strange = [name for name in label_values if name not in self.classes]
        if strange:
            raise ValueError(
                f"ingest.label_values names {', '.join(strange)}, which ingest.classes does not; use its names"
            )
        silent = [name for name in self.classes[1:] if name not in label_values]
        if silent:
            raise ValueError(
                f"ingest.label_values gives no value for {', '.join(silent)}; only what is left over, "
                f"{self.classes[0]}, may go without"
            )
        values = list(chain.from_iterable(label_values.values()))
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"ingest.label_values names the value {twice[0]} twice; a voxel belongs to one class")


class Volume(Section):
    """How a volume becomes arrays, which a released model carries, to prepare a new volume the same way.

    `spacing` is the size in mm of a voxel after resampling, along x (to the right), y (to the front) and z (upwards).
    The intensities of `window` become 0 and 1; without it, those between each volume's own 0.5th and 99.5th percentile
    do. Without `depth` every axial slice is an image of its own; with it, a volume is one image of so many slices.
    """

    spacing: tuple[Millimetres, Millimetres, Millimetres] = Field(strict=False)
    window: tuple[FiniteFloat, FiniteFloat] | None = Field(default=None, strict=False)
    depth: int | None = Field(default=None, ge=8, le=512)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.window is not None and not self.window[0] < self.window[1]:
            raise ValueError(
                f"preprocess.volume.window is {list(self.window)}; give the lower intensity first, and a higher one"
            )
        return self


class Preprocess(Section):
    """Image size, hospitals, and how patients are dealt to them."""

    pixels: int = Field(ge=16, le=512)
    volume: Volume | None = None
    hospitals: tuple[Name, ...] = Field(min_length=1, max_length=100, strict=False)
    dealing: Literal["natural", "iid", "dirichlet"] = "iid"
    dirichlet_alpha: float = Field(default=0.5, gt=0.0, le=1000.0)
    test_fraction: float = Field(default=0.2, ge=0.0, lt=1.0)
    validation_fraction: float = Field(default=0.15, gt=0.0, lt=1.0)
    seed: Seed = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.hospitals)) != len(self.hospitals):
            raise ValueError("preprocess.hospitals names a hospital twice; give each its own name")
        return self
