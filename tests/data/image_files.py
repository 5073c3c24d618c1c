"""Small real image files for the tests of this folder."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 24


def texture(seed: int, *, height: int = SIZE, width: int = SIZE, bits: int = 8) -> np.ndarray:
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, (height, width)).astype(kind)


def encoded(pixels: np.ndarray, *, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def write_image(path: Path, seed: int, **how) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(texture(seed, **how), kind="PNG" if path.suffix == ".png" else "JPEG"))
    return path


def class_folders(folder: Path, *, patients: int = 4, classes=("normal", "viral")) -> Path:
    """`patients` patients of two images each per class, a sub-folder per patient; JPEG and PNG by turns."""
    for c, name in enumerate(classes):
        for p in range(patients):
            for i, suffix in enumerate((".png", ".jpeg")):
                write_image(folder / name / f"{name[0]}{p}" / f"view{i}{suffix}", 100 * c + 10 * p + i)
    return folder


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)
