"""How good an encrypted network is in the clear, on all test images and beside the model it stands for."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from primia.encrypted.agreement import plaintext_logits
from primia.encrypted.bundle import Bundle
from primia.evaluation import metrics
from primia.evaluation.bootstrap import bootstrap_intervals

if TYPE_CHECKING:
    from primia.config import Evaluation
    from primia.data.image_set import ImageSet
    from primia.encrypted.packing import Floats
    from primia.models.released import ReleasedModel

_BATCH = 128


def network_figures(
    bundle: Bundle, teacher: "ReleasedModel", test: "ImageSet", *, settings: "Evaluation"
) -> dict[str, Any]:
    """What a client gets, for results/encryption/metrics.json.

    Returns:
        student_mcc; student_auc and student_accuracy with their 95 % bootstrap over patients as value, low and high;
        student_teacher_agreement, the fraction of images with the released model's class; the digests of both, the
        front and the pixels of what the network sees.
    """
    logits = np.concatenate([plaintext_logits(bundle, images) for images in torch.split(test.images, _BATCH)])
    probabilities, labels = softmax(logits), test.labels.numpy()
    ends = bootstrap_intervals(
        probabilities, labels, test.patients.numpy(), resamples=settings.bootstrap, seed=settings.seed
    )
    values = {
        "auc": metrics.auc(probabilities, labels, classes=test.classes),
        "accuracy": metrics.accuracy(probabilities, labels),
    }
    taught = teacher.logits(test.images).argmax(dim=1).numpy()
    said = bundle.specification
    return {
        "student_mcc": metrics.mcc(probabilities, labels),
        **{
            f"student_{name}": {"value": value, "low": float(ends[name][0]), "high": float(ends[name][1])}
            for name, value in values.items()
        },
        "student_teacher_agreement": float((logits.argmax(axis=1) == taught).mean()),
        "teacher_digest": teacher.digest(),
        "model_digest": said.model_digest,
        "front": said.front,
        "pixels": said.pipeline_pixels if said.front == "scattering" else said.packing.height,
    }


def softmax(logits: "Floats") -> "Floats":
    """Class probabilities (n, classes) of logits (n, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
