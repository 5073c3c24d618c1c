"""What the diagnosis server is given: plan, weights and public specification, in a folder of two files."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save
from scipy.sparse import csr_array

from primia.encrypted.compiler import compile_network, packing_of
from primia.encrypted.layout import Layout
from primia.encrypted.parameters import Specification
from primia.encrypted.plan import Degree, Plan, Profile, Step
from primia.errors import EncryptionError
from primia.files import folder_in_progress, read_json, write_bytes, write_json

if TYPE_CHECKING:  # the server never loads torch
    from primia.models.polynomial import PolynomialNetwork

FORMAT = 2
_CSR = ("data", "indices", "indptr")


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    degree: Degree
    steps: tuple[Step, ...] = Field(min_length=1, max_length=16)
    largest: tuple[float, ...]
    specification: Specification


@dataclass(frozen=True)
class Bundle:
    """A plan with its public specification; `specification.model_digest` covers both."""

    plan: Plan
    specification: Specification

    def verify(self) -> None:
        """Check that digest, parameters and shapes belong together.

        Raises:
            EncryptionError: names what does not.
        """
        self.plan.check()
        said = self.specification
        fits = (
            self.plan.inputs == Layout.of_packing(said.packing, self.plan.slots)
            and self.plan.matrices[-1].shape[0] == len(said.classes)
            and said.parameters == self.plan.parameters
        )
        if not fits:
            raise EncryptionError(
                "The encrypted model's weights do not fit its specification; run the encrypt stage again."
            )
        if not hmac.compare_digest(said.model_digest, _digest(self.plan, said)):
            raise EncryptionError(
                "The encrypted model's weights or specification were changed after export; run the encrypt stage again."
            )


def make_bundle(
    network: "PolynomialNetwork",
    *,
    classes: Sequence[str],
    pipeline_pixels: int,
    teacher_digest: str,
    profile: Profile = "fast",
) -> Bundle:
    """Export a distilled network.

    `pipeline_pixels` is the side of the preprocessed images; `teacher_digest` the SHA-256 of the model that taught;
    `profile` is `fast` (N = 8192, up to three maps) or `deep` (N = 16384, up to seven).

    Raises:
        EncryptionError: the network does not fit the encrypted engine.
    """
    plan = compile_network(network, profile=profile)
    outputs = plan.matrices[-1].shape[0]
    if len(classes) != outputs:
        raise EncryptionError(
            f"The network tells {outputs} classes apart, but {len(classes)} were named; name one class per output."
        )
    try:
        unsigned = Specification(
            parameters=plan.parameters,
            classes=tuple(classes),
            pipeline_pixels=pipeline_pixels,
            front=network.front,
            mean=float(network.mean),
            std=float(network.std),
            packing=packing_of(network, degree=plan.degree),
            model_digest="0" * 64,
            teacher_digest=teacher_digest,
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise EncryptionError(
            f"The network cannot be served ({key}: {first['msg']}); export one that `Specification` describes."
        ) from error
    return Bundle(plan=plan, specification=unsigned.model_copy(update={"model_digest": _digest(plan, unsigned)}))


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write `bundle.json` and `weights.safetensors`; an earlier folder is replaced as a whole."""
    tensors: dict[str, NDArray[Any]] = {}
    for index, (matrix, offset) in enumerate(zip(bundle.plan.matrices, bundle.plan.offsets, strict=True)):
        tensors |= {f"{part}{index}": getattr(matrix, part) for part in _CSR} | {f"offset{index}": offset}
    manifest = _Manifest(
        format=FORMAT,
        degree=bundle.plan.degree,
        steps=bundle.plan.steps,
        largest=bundle.plan.largest,
        specification=bundle.specification,
    )
    with folder_in_progress(folder) as temporary:
        write_bytes(temporary / "weights.safetensors", save(tensors))
        write_json(temporary / "bundle.json", manifest.model_dump(mode="json"))


def load_bundle(folder: Path) -> Bundle:
    """Read and verify a folder written by `save_bundle`.

    Raises:
        DataError: bundle.json is missing or no JSON.
        EncryptionError: the folder is of another version, damaged or changed.
    """
    raw = read_json(folder / "bundle.json")
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise EncryptionError(
            f"{folder} is not an encrypted model of format {FORMAT}; run the encrypt stage of this version."
        )
    try:
        manifest = _Manifest.model_validate_json((folder / "bundle.json").read_bytes())
        tensors = load((folder / "weights.safetensors").read_bytes())
        inputs = Layout.of_packing(manifest.specification.packing, manifest.degree // 2)
        columns = (inputs.values, *(step.layout.values for step in manifest.steps))
        plan = Plan(
            degree=manifest.degree,
            inputs=inputs,
            steps=manifest.steps,
            matrices=tuple(
                _matrix([tensors.pop(f"{part}{index}") for part in _CSR], (step.layout.values, columns[index]))
                for index, step in enumerate(manifest.steps)
            ),
            offsets=tuple(tensors.pop(f"offset{index}") for index in range(len(manifest.steps))),
            largest=manifest.largest,
        )
    except (ValidationError, SafetensorError, KeyError, OSError, ValueError) as error:
        raise EncryptionError(
            f"{folder} holds a damaged or incomplete encrypted model; run the encrypt stage again."
        ) from error
    shaped = all(offset.ndim == 1 and offset.dtype == np.float64 for offset in plan.offsets)
    if tensors or not shaped or len(plan.largest) != len(plan.steps):
        raise EncryptionError(f"{folder} holds tensors no encrypted model has; run the encrypt stage again.")
    bundle = Bundle(plan=plan, specification=manifest.specification)
    bundle.verify()
    return bundle


def _matrix(parts: list[NDArray[Any]], shape: tuple[int, int]) -> csr_array:
    """Compressed rows in canonical form, as they were saved; ValueError for anything else."""
    data, indices, indptr = parts
    if [part.dtype.name for part in parts] != ["float64", "int64", "int64"]:
        raise ValueError("other types than were saved")
    matrix = csr_array((data, indices, indptr), shape=shape)
    matrix.check_format(full_check=True)
    if not matrix.has_canonical_format:
        raise ValueError("columns out of order")
    return matrix


def _digest(plan: Plan, specification: Specification) -> str:
    """SHA-256 over the specification (its own digest blanked), the steps, the ranges, and all weights."""
    blank = specification.model_copy(update={"model_digest": "0" * 64})
    digest = hashlib.sha256(blank.model_dump_json().encode() + b"\0" + repr(plan.largest).encode())
    for step, matrix, offset in zip(plan.steps, plan.matrices, plan.offsets, strict=True):
        digest.update(b"\0" + step.model_dump_json().encode() + repr((matrix.shape, matrix.nnz)).encode())
        for array, kind in ((matrix.data, "<f8"), (matrix.indices, "<i8"), (matrix.indptr, "<i8"), (offset, "<f8")):
            digest.update(np.ascontiguousarray(array.astype(kind)).tobytes())
    return digest.hexdigest()
