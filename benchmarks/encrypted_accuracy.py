"""How good encrypted diagnoses of real X-rays are, beside the same networks in the clear and their ReLU teacher.

    python -m benchmarks.encrypted_accuracy --data /path/to/folder --json

Every network answers all test images, really encrypted: `28`, `64`, `112` are the students of the profile chest_xray,
taught at three hospitals; `224` sees more than its teacher and is taught in one place; `scattering` and
`scattering_private` (ε = 8) are federated models that answer themselves. Nothing is chosen on test images. `--work`
keeps what a killed run needs: prepared images, models, bundles, and each answer. The last line of `--json` is one JSON
object. auc_teacher is of the ReLU teacher, one class against the rest; the others are dicts by network:

- auc_clear, auc_encrypted: of the polynomial network in the clear, and of its decrypted answers; auc_difference.
- below_teacher: auc_teacher - auc_clear.
- mcc, accuracy: of the decrypted answers; mcc_teacher, accuracy_teacher: of the teacher.
- same_class: images whose most likely class is the same encrypted and in the clear; images: of how many.
- logit_error: largest difference of a logit, encrypted and in the clear.
- front, pixels: what the network sees.
"""

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.encrypted_networks import LARGE, Networks
from primia.data.image_set import ImageSet, load_image_set
from primia.encrypted.agreement import encrypted_agreement
from primia.encrypted.bundle import Bundle, load_bundle
from primia.encrypted.packing import Floats
from primia.encrypted.utility import softmax
from primia.evaluation import metrics

NAMES = ("28", "64", "112", "224", "scattering", "scattering_private")
PROCESSES = 2
_AT_ONCE = 52  # images between two writes; keys are made and weights encoded anew for them


def answers_of(folder: Path, images: Path, kept: Path) -> tuple[Floats, Floats]:
    """Logits of a bundle in the clear and encrypted, (images, classes) each, of all images of a test set.

    Args:
        folder: of the bundle.
        images: the test set's file.
        kept: folder of what was answered; nothing in it is asked again.
    """
    count, classes = len(load_image_set(images)), len(load_bundle(folder).specification.classes)
    kept.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_answer, args=(folder, images, kept, start)) for start in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows = _kept(kept)
    if sorted(rows) != list(range(count)):
        raise SystemExit(f"{count - len(rows)} of {count} images have no answer in {kept}; run the same command again.")
    both = np.array([rows[image] for image in range(count)]).reshape(count, 2, classes)
    return both[:, 0], both[:, 1]


def _answer(folder: Path, images: Path, kept: Path, start: int) -> None:
    """Every `PROCESSES`-th image that has no answer yet, from `start` on."""
    torch.set_num_threads(1)
    bundle, test = load_bundle(folder), load_image_set(images)
    done = _kept(kept)
    mine = [image for image in range(start, len(test), PROCESSES) if image not in done]
    with (kept / f"{start}.jsonl").open("a") as stream:
        stream.write("\n")  # ends a line that a killed run left
        for first in range(0, len(mine), _AT_ONCE):
            chosen = mine[first : first + _AT_ONCE]
            told = encrypted_agreement(bundle, test.images[chosen], image_ids=[str(image) for image in chosen])
            rows: dict[str, tuple[list[float], list[float]]] = {}
            for row in told.rows:  # of each image in the order of the classes
                clear, encrypted = rows.setdefault(row.image, ([], []))
                clear.append(row.plaintext)
                encrypted.append(row.encrypted)
            stream.writelines(json.dumps([int(image), *both]) + "\n" for image, both in rows.items())
            stream.flush()


def _kept(folder: Path) -> dict[int, tuple[list[float], list[float]]]:
    """Clear and encrypted logits by image; a line that a killed run left unfinished does not count."""
    rows = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                image, clear, encrypted = json.loads(line)
            except json.JSONDecodeError:
                continue
            rows[image] = (clear, encrypted)
    return rows


def figures_of(
    bundle: Bundle, clear: Floats, encrypted: Floats, test: ImageSet, *, auc_teacher: float
) -> dict[str, Any]:
    """One column of the result; `clear` and `encrypted` are logits (images, classes)."""
    labels = test.labels.numpy()
    auc_clear, auc_encrypted = (
        metrics.auc(softmax(logits), labels, classes=test.classes) for logits in (clear, encrypted)
    )
    said = bundle.specification
    return {
        "auc_clear": auc_clear,
        "auc_encrypted": auc_encrypted,
        "auc_difference": auc_encrypted - auc_clear,
        "below_teacher": auc_teacher - auc_clear,
        "mcc": metrics.mcc(encrypted, labels),
        "accuracy": metrics.accuracy(encrypted, labels),
        "same_class": int((clear.argmax(axis=1) == encrypted.argmax(axis=1)).sum()),
        "images": len(labels),
        "logit_error": float(np.abs(clear - encrypted).max()),
        "front": said.front,
        "pixels": said.pipeline_pixels if said.front == "scattering" else said.packing.height,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is missing, ask everything, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with labels.csv and the images")
    parser.add_argument("--teacher", type=Path, help="folder of a trained ReLU teacher; without it one is trained")
    parser.add_argument("--bundles", type=Path, help="where the bundles are kept (default: below --work)")
    parser.add_argument("--work", type=Path, default=Path(".state/benchmarks/encrypted_accuracy"))
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="networks to measure")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # equal weights on every machine with this processor
    networks = Networks(chosen.data, chosen.work, teacher=chosen.teacher)
    teacher = networks.model("teacher")
    test_file = networks.images(teacher.pixels) / "test" / "test.safetensors"
    test = load_image_set(test_file)
    taught, labels = teacher.probabilities(test.images).double().numpy(), test.labels.numpy()
    told: dict[str, Any] = {
        "auc_teacher": metrics.auc(taught, labels, classes=test.classes),
        "mcc_teacher": metrics.mcc(taught, labels),
        "accuracy_teacher": metrics.accuracy(taught, labels),
    }
    for name in chosen.only:
        folder = (chosen.bundles or chosen.work / "bundles") / name
        bundle = networks.bundle(name, folder)
        seen = networks.images(LARGE) / "test" / "test.safetensors" if name == str(LARGE) else test_file
        kept = chosen.work / "answers" / f"{name}-{bundle.specification.model_digest[:16]}"
        column = figures_of(
            bundle, *answers_of(folder, seen, kept), load_image_set(seen), auc_teacher=told["auc_teacher"]
        )
        print(name, json.dumps(column), flush=True)
        for key, value in column.items():
            told.setdefault(key, {})[name] = value
    if chosen.json:
        print(json.dumps(told))


if __name__ == "__main__":
    main()
