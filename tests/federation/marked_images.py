"""Hospitals whose images have masks, for tests."""

import dataclasses

import torch
from federating import NAMES, PHANTOMS, image_set

from primia.data.image_set import save_image_set
from primia.data.origin import write_origin


def marked(*, patients, seed):
    """Two images of each patient; the structure is the third of the image that is bright."""
    images = image_set(patients=patients, seed=seed)
    masks = torch.zeros(len(images), 16, 16, dtype=torch.uint8)
    for mask, label in zip(masks, images.labels.tolist(), strict=True):
        mask[5 * label : 5 * (label + 1)] = 1
    return dataclasses.replace(images, labels=masks, classes=("background", "lungs"))


def write_marked_sites(folder):
    """Three hospitals with training and validation images; their folder."""
    for index, name in enumerate(NAMES):
        write_origin(folder / name, PHANTOMS)
        save_image_set(folder / name / "train.safetensors", marked(patients=20, seed=index))
        save_image_set(folder / name / "validation.safetensors", marked(patients=9, seed=100 + index))
    return folder
