"""How close the encrypted answers come to those of the same network in the clear."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from primia.encrypted.bundle import Bundle
from primia.encrypted.engine import Engine
from primia.encrypted.inputs import answer_logits, image_slots, image_values
from primia.encrypted.packing import Floats
from primia.errors import EncryptionError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LogitRow:
    """One logit of one image, in the clear and after decryption."""

    image: str
    label: str
    plaintext: float
    encrypted: float


@dataclass(frozen=True)
class Agreement:
    """agreement: fraction of images with the same most likely class; logit_error: largest absolute difference.

    latency_s: median seconds from image to logits, without a network; evaluation_s: the server's part of it.
    upload_bytes and reply_bytes are medians; keys_bytes are uploaded once.
    """

    agreement: float
    logit_error: float
    latency_s: float
    evaluation_s: float
    images: int
    upload_bytes: int
    reply_bytes: int
    keys_bytes: int
    rows: tuple[LogitRow, ...]


def plaintext_logits(bundle: Bundle, images: "Tensor") -> Floats:
    """What the encrypted network says in the clear: images (n, 1, p, p) in [0, 1] -> logits (n, classes)."""
    return bundle.plan.logits(image_values(images, bundle.specification))


def encrypted_agreement(bundle: Bundle, images: "Tensor", *, image_ids: Sequence[str]) -> Agreement:
    """Encrypt images (n, 1, p, p) in [0, 1], evaluate, decrypt, and compare with the network in the clear.

    Keys are made for this call and forgotten with it.
    """
    if len(images) == 0 or len(images) != len(image_ids):
        raise EncryptionError(
            f"Agreement was asked for {len(images)} images with {len(image_ids)} names; give as many names as images."
        )
    engine = Engine(bundle.plan)
    secret_bytes, key_bytes = engine.scheme.generate_keys()
    secret, keys = engine.scheme.load_secret(secret_bytes), engine.scheme.load_keys(key_bytes)
    said = bundle.specification
    rows: list[LogitRow] = []
    same: list[bool] = []
    latencies, evaluations, uploads, replies = [], [], [], []
    for image, image_id in zip(images, image_ids, strict=True):
        started = time.perf_counter()
        upload = [engine.scheme.encrypt(slots, secret) for slots in image_slots(image, said)]
        sent = time.perf_counter()
        reply = engine.evaluate(upload, keys)
        received = time.perf_counter()
        encrypted = answer_logits(engine.scheme.decrypt(reply, secret), said)
        latencies.append(time.perf_counter() - started)
        evaluations.append(received - sent)
        uploads.append(sum(map(len, upload)))
        replies.append(len(reply))
        plaintext = plaintext_logits(bundle, image[None])[0]
        same.append(bool(np.argmax(plaintext) == np.argmax(encrypted)))
        for label, clear, decrypted in zip(said.classes, plaintext, encrypted, strict=True):
            rows.append(LogitRow(image=image_id, label=label, plaintext=float(clear), encrypted=float(decrypted)))
    return Agreement(
        agreement=statistics.fmean(same),
        logit_error=max(abs(row.plaintext - row.encrypted) for row in rows),
        latency_s=statistics.median(latencies),
        evaluation_s=statistics.median(evaluations),
        images=len(images),
        upload_bytes=int(statistics.median(uploads)),
        reply_bytes=int(statistics.median(replies)),
        keys_bytes=len(key_bytes),
        rows=tuple(rows),
    )
