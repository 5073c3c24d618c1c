"""Grids of trainings that take hours: cells that are measured once, and a file that a killed benchmark goes on with."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from primia.config import Params
from primia.data.ingest import ingest
from primia.data.sites import build_site_sets
from primia.files import read_json, write_json

# What decides a cell, besides the images.
DECISIVE = {"model", "training", "federation", "secure_aggregation", "privacy", "evaluation"}


class Cell(Protocol):
    """One training of a grid."""

    @property
    def name(self) -> str:
        """A key for the file."""

    def params(self, base: dict[str, Any]) -> Params:
        """The parameters of this cell over `base`, all of params.yaml as a mapping."""


C = TypeVar("C", bound=Cell)


def overlaid(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes`, section by section; neither is changed."""
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = overlaid(merged.get(key) or {}, value) if isinstance(value, dict) else value
    return merged


def measure(
    cells: Iterable[C],
    base: dict[str, Any],
    *,
    sites: Path,
    test_file: Path,
    state: Path,
    out: Path,
    measured: Callable[[C, Params, Path], dict[str, Any]],
    shown: str,
) -> None:
    """Run the cells that `out` does not hold yet, and add each to it; several processes may share the file.

    Args:
        cells: of the grid.
        base: all of params.yaml as a mapping.
        sites: holds a folder per hospital.
        test_file: the central test set.
        state: outlives the call, so that a killed federation is resumed; a folder per cell.
        out: the JSON file.
        measured: trains a cell under its parameters, with a folder for its state, and tells its figures.
        shown: the figure that is printed of every cell.
    """
    images = _images_digest(sites, test_file)
    for cell in cells:
        params = cell.params(base)
        # Keys that are added later do not make old figures stale.
        decisive = params.model_dump_json(include=DECISIVE, exclude_defaults=True)
        digest = hashlib.sha256(f"{images}\0{decisive}".encode()).hexdigest()
        if _read(out)["cells"].get(cell.name, {}).get("params_digest") == digest:
            continue
        figures = {**measured(cell, params, state / digest[:16]), "params_digest": digest}
        with out.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            told = _read(out)
            told["cells"][cell.name] = figures
            write_json(out, told)
        print(json.dumps({"cell": cell.name, shown: figures[shown]}, ensure_ascii=False), flush=True)


def _read(out: Path) -> dict[str, Any]:
    return read_json(out) if out.exists() else {"cells": {}}


def _images_digest(sites: Path, test_file: Path) -> str:
    """SHA-256 of all prepared images, of the hospitals and of the test set."""
    digest = hashlib.sha256()
    for path in sorted([*sites.rglob("*.safetensors"), test_file]):
        digest.update(repr(path.relative_to(sites.parent).as_posix()).encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def prepare(params: Params, folder: Path) -> None:
    """Ingest and preprocess to `folder`, unless that was done with the same settings."""
    settings = params.model_dump(mode="json", include={"task", "ingest", "preprocess"})
    path = folder / "prepared.json"
    if path.exists() and read_json(path).get("settings") == settings:
        return
    ingest(
        params.ingest,
        task=params.task,
        hospitals=params.preprocess.hospitals,
        target=folder / "raw",
        quarantine_path=folder / "q.csv",
    )
    counts = build_site_sets(
        params.preprocess,
        classes=params.ingest.classes,
        raw=folder / "raw",
        sites=folder / "sites",
        test=folder / "test",
    )
    write_json(path, {"settings": settings, **counts})
