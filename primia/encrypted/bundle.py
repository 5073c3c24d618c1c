"""What the diagnosis server is given: plan, weights and public specification, in a folder of two files."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from primia.encrypted.parameters import Packing, Specification
from primia.encrypted.plan import Plan, compile_network
from primia.errors import EncryptionError
from primia.files import folder_in_progress, read_json, write_bytes, write_json

if TYPE_CHECKING:  # the server never loads torch
    from primia.models.polynomial import PolynomialNetwork

FORMAT = 1


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int
    layers: int = Field(ge=1, le=16)
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
        shapes = [matrix.shape for matrix in self.plan.matrices]
        fits = (
            all(before[0] == after[1] for before, after in itertools.pairwise(shapes))
            and all(len(offset) == rows for offset, (rows, _) in zip(self.plan.offsets, shapes, strict=True))
            and shapes[0][1] == said.packing.values
            and shapes[-1][0] == len(said.classes)
            and said.packing.period(said.parameters.slots) == self.plan.period
            and said.parameters == self.plan.parameters
        )
        if not fits:
            raise EncryptionError(
                "The encrypted model's weights do not fit its specification; run the encrypt stage again."
            )
        if said.model_digest != _digest(self.plan, said):
            raise EncryptionError(
                "The encrypted model's weights or specification were changed after export; run the encrypt stage again."
            )


def make_bundle(
    network: "PolynomialNetwork", *, classes: Sequence[str], pipeline_pixels: int, teacher_digest: str
) -> Bundle:
    """Export a distilled network.

    `pipeline_pixels` is the side of the preprocessed images; `teacher_digest` the SHA-256 of the model that taught.

    Raises:
        EncryptionError: the network does not fit the encrypted engine.
    """
    plan = compile_network(network)
    if len(classes) != plan.matrices[-1].shape[0]:
        raise EncryptionError(
            f"The network tells {plan.matrices[-1].shape[0]} classes apart, but {len(classes)} were named; "
            "name one class per output."
        )
    unsigned = Specification(
        parameters=plan.parameters,
        classes=tuple(classes),
        pipeline_pixels=pipeline_pixels,
        front="shrink",
        mean=float(network.mean),
        std=float(network.std),
        packing=Packing(channels=1, height=network.pixels, width=network.pixels),
        model_digest="0" * 64,
        teacher_digest=teacher_digest,
    )
    return Bundle(plan=plan, specification=unsigned.model_copy(update={"model_digest": _digest(plan, unsigned)}))


def save_bundle(folder: Path, bundle: Bundle) -> None:
    """Write `bundle.json` and `weights.safetensors`; an earlier folder is replaced as a whole."""
    tensors = {}
    for index, (matrix, offset) in enumerate(zip(bundle.plan.matrices, bundle.plan.offsets, strict=True)):
        tensors[f"matrix{index}"] = matrix
        tensors[f"offset{index}"] = offset
    manifest = _Manifest(
        format=FORMAT,
        layers=len(bundle.plan.matrices),
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
        plan = Plan(
            matrices=tuple(tensors.pop(f"matrix{index}") for index in range(manifest.layers)),
            offsets=tuple(tensors.pop(f"offset{index}") for index in range(manifest.layers)),
            largest=manifest.largest,
        )
    except (ValidationError, SafetensorError, KeyError, OSError) as error:
        raise EncryptionError(
            f"{folder} holds a damaged or incomplete encrypted model; run the encrypt stage again."
        ) from error
    shaped = all(m.ndim == 2 and m.dtype == np.float64 for m in plan.matrices) and all(
        o.ndim == 1 and o.dtype == np.float64 for o in plan.offsets
    )
    if tensors or not shaped or len(plan.largest) != manifest.layers:
        raise EncryptionError(f"{folder} holds tensors no encrypted model has; run the encrypt stage again.")
    bundle = Bundle(plan=plan, specification=manifest.specification)
    bundle.verify()
    return bundle


def _digest(plan: Plan, specification: Specification) -> str:
    """SHA-256 over the specification (its own digest blanked), the ranges, and shapes and bytes of all weights."""
    blank = specification.model_copy(update={"model_digest": "0" * 64})
    digest = hashlib.sha256(blank.model_dump_json().encode() + repr(plan.largest).encode())
    for array in (*plan.matrices, *plan.offsets):
        digest.update(repr(array.shape).encode() + array.astype("<f8").tobytes())
    return digest.hexdigest()
