"""The embedded synthetic images as a source."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from primia.config import Phantom
from primia.data.sources import SourceImage

LUNG_VALUE = 255  # of a pixel of the lungs in a mask file, which can so be looked at


@dataclass(frozen=True)
class PhantomSource:
    """Synthetic chest X-rays of patients who never lived, spread over `hospitals`; with `masks`, of their lungs."""

    settings: Phantom
    hospitals: Sequence[str]
    masks: bool = False

    @property
    def synthetic(self) -> bool:
        """Always true."""
        return True

    def describe(self) -> str:
        """Size and seed of the generated set."""
        size = self.settings
        return f"phantom ({size.patients} synthetic patients, {size.pixels} pixels, seed {size.seed})"

    def images(self) -> Iterator[SourceImage]:
        """Generate the images one by one."""
        from primia.data.phantom import generate_phantoms

        for phantom in generate_phantoms(
            patients=self.settings.patients,
            pixels=self.settings.pixels,
            hospitals=self.hospitals,
            seed=self.settings.seed,
        ):
            file = f"{phantom.image_id}.png"
            yield SourceImage(
                file=file,
                label="" if self.masks else phantom.label,
                patient=phantom.patient_id,
                hospital=phantom.hospital,
                read=partial(_png, phantom.pixels),
                mask=file if self.masks else "",
                read_mask=partial(_png, phantom.lung_mask * np.uint8(LUNG_VALUE)) if self.masks else None,
            )


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG")
    return stream.getvalue()
