"""From an image to the slots that are encrypted, and from decrypted slots to logits."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from primia.encrypted.layout import Floats, Layout, laid_out, padded
from primia.encrypted.parameters import Specification
from primia.errors import EncryptionError

if TYPE_CHECKING:
    from torch import Tensor, nn

# The answer is repeated over the slots. Copies that differ by more than noise are no answer: garbage, as a ciphertext
# under another key decrypts to, agrees with itself nowhere.
MOST_SPREAD = 0.1


def image_slots(image: "Path | Tensor", specification: Specification) -> Floats:
    """An image file, or a preprocessed tensor (1, p, p) in [0, 1], as slots ready to encrypt: (ciphertexts, slots).

    A file goes through the preprocessing of the pipeline, `primia.data.preprocess.load_image`.

    Raises:
        EncryptionError: a tensor of another size than the model takes.
        DataError: the file is no usable image.
    """
    if isinstance(image, Path):
        from primia.data.preprocess import load_image

        image = load_image(image, pixels=specification.pipeline_pixels)
    (slots,) = packed(image_values(image[None], specification), specification)
    return np.asarray(slots)


def image_values(images: "Tensor", specification: Specification) -> Floats:
    """What the encrypted network takes: images (n, 1, p, p) in [0, 1] -> (n, values) float64, by the public front."""
    from primia.models.polynomial import shrink

    expected = (1, specification.pipeline_pixels, specification.pipeline_pixels)
    if tuple(images.shape[1:]) != expected:
        raise EncryptionError(
            f"The image has shape {tuple(images.shape[1:])}, but the model takes {expected}; "
            "preprocess it to that size."
        )
    if specification.front == "scattering":
        front = _scattering(specification.pipeline_pixels)
        values = front((images.float() - specification.mean) / specification.std).flatten(1)
        return np.asarray(values.double().numpy())
    small = shrink(images, pixels=specification.packing.height).double().numpy()
    return np.asarray((small - specification.mean) / specification.std)


@lru_cache(maxsize=2)
def _scattering(pixels: int) -> "nn.Module":
    from primia.models.networks import build_network

    return build_network("scattering", classes=2, pixels=pixels, seed=0).front.eval()


def packed(values: Floats, specification: Specification) -> Floats:
    """Lay values (n, values) into slots (n, ciphertexts, slots) as `Specification.packing` says; other slots are 0."""
    slots = specification.parameters.slots
    return laid_out(values, Layout.of_packing(specification.packing, slots), slots)


def answer_logits(slots: Floats, specification: Specification) -> Floats:
    """The logits (classes,) from decrypted slots (slots,), which repeat them; the mean lowers the rounding noise.

    Raises:
        EncryptionError: the copies disagree: the answer belongs to another key or question, or is none.
    """
    classes = len(specification.classes)
    copies = slots.reshape(-1, padded(classes))
    if not np.ptp(copies, axis=0).max() < MOST_SPREAD:
        raise EncryptionError(
            "The answer does not decrypt to anything with this secret key; make new keys with keygen and ask again."
        )
    return np.asarray(copies.mean(axis=0)[:classes])
