"""Hospitals whose images have masks, for tests."""

import dataclasses

import torch
from federating import NAMES, PHANTOMS, image_set

from primia.data.image_set import save_image_set
from primia.data.origin import write_origin


def marked(*, patients, seed, depth=None):
    """Two images (volumes of equal slices) of each patient; the structure is the third of the image that is bright."""
    images = image_set(patients=patients, seed=seed)
    masks = torch.zeros(len(images), 16, 16, dtype=torch.uint8)
    for mask, label in zip(masks, images.labels.tolist(), strict=True):
        mask[5 * label : 5 * (label + 1)] = 1
    shown = images.images
    if depth is not None:
        shown, masks = (each[..., None].expand(*each.shape, depth).contiguous() for each in (shown, masks))
    return dataclasses.replace(images, images=shown, labels=masks, classes=("background", "lungs"))


def write_marked_sites(folder, *, depth=None):
    """Three hospitals with training and validation images; their folder."""
    for index, name in enumerate(NAMES):
        write_origin(folder / name, PHANTOMS)
        save_image_set(folder / name / "train.safetensors", marked(patients=20, seed=index, depth=depth))
        save_image_set(folder / name / "validation.safetensors", marked(patients=9, seed=100 + index, depth=depth))
    return folder
