"""What a diagnosis on an encrypted image costs, beside TenSEAL's own vectors.

    python -m benchmarks.encrypted --json
    python -m benchmarks.encrypted --bundles FOLDER --json    (subfolders 28, 64, 112, 224, scattering; any of them)

Without --bundles the architectures of the students are measured with random weights and the batch-norm statistics of
phantoms; what is computed, and how long it takes, does not depend on the weights. Images are phantoms of 224 pixels
(112 for scattering, which is linear behind its public front). Everything runs in one process on one thread; times are
wall seconds, medians over the images, with the weights encoded before. The last line of `--json` is one JSON object:

- latency_s: what the server computes for one image, from the bytes of a question to those of the answer.
- client_s: what the client does: front, packing and encryption, then decryption.
- upload_mb, reply_mb: bytes of a question's ciphertexts and of the answer's; keys_mb: evaluation keys, sent once.
- logit_error: largest difference over images and classes to the network in the clear.
- tenseal_highlevel_s, tenseal_logit_error: the network of 28 pixels by `CKKSVector.mm` (see
  benchmarks/encrypted_tenseal.py), taking turns with ours; speedup: its seconds over latency_s of 28 pixels.
- scaling_2_processes: questions a second of two processes over those of one, at 112 pixels.
- machine, load, seed, images: where and how it was measured.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.encrypted_tenseal import HighLevel
from primia.data.phantom_set import phantom_images
from primia.encrypted.agreement import encrypted_agreement
from primia.encrypted.bundle import Bundle, load_bundle, make_bundle, save_bundle
from primia.encrypted.engine import Engine
from primia.encrypted.inputs import image_slots, image_values
from primia.models.polynomial import PolynomialNetwork
from primia.models.scattering import CHANNELS, STRIDE
from primia.models.students import build_student

CLASSES = ("normal", "bacterial", "viral")
NAMES = ("28", "64", "112", "224", "scattering")
PIPELINE_PIXELS = 224
SCATTERING_PIXELS = 112
SCALED = "112"
TENSEAL = "28"
TENSEAL_IMAGES = 2  # of half a minute each


def network_of(name: str, images: Tensor, *, seed: int) -> PolynomialNetwork:
    """A network with random weights, and with the statistics and ranges of `images` (n, 1, p, p)."""
    network = _untrained(name, seed=seed)
    network.mean.copy_(images.float().mean())
    network.std.copy_(images.float().std())
    for layer in network.body:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = None  # the average over what it has seen
    inputs = network.inputs(images)
    network.train()
    with torch.no_grad():
        network(inputs)
    network.record_ranges(inputs)
    return network


def _untrained(name: str, *, seed: int) -> PolynomialNetwork:
    if name != "scattering":
        return build_student(pixels=int(name), classes=len(CLASSES), seed=seed)
    side = SCATTERING_PIXELS // STRIDE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * side**2, len(CLASSES)))
    return PolynomialNetwork(body, shape=(CHANNELS, side, side), front="scattering")


def phantoms(count: int, pixels: int, *, seed: int) -> Tensor:
    """Images (count, 1, pixels, pixels) in [0, 1] of synthetic patients."""
    return phantom_images(patients=count, pixels=pixels, hospitals=("one", "two"), seed=seed)


def measure(bundle: Bundle, images: Tensor) -> dict[str, float]:
    """Medians over `images` for one model; the keys are those of the module's docstring."""
    found = encrypted_agreement(bundle, images, image_ids=[str(number) for number in range(len(images))])
    return {
        "latency_s": found.evaluation_s,
        "client_s": found.latency_s - found.evaluation_s,
        "upload_mb": found.upload_bytes / 1e6,
        "reply_mb": found.reply_bytes / 1e6,
        "keys_mb": found.keys_bytes / 1e6,
        "logit_error": found.logit_error,
    }


def measure_tenseal(bundle: Bundle, images: Tensor) -> dict[str, float]:
    """TenSEAL's vectors and our engine on the same images, taking turns."""
    peer, engine = HighLevel(bundle.plan), Engine(bundle.plan)
    secret_bytes, key_bytes = engine.scheme.generate_keys()
    secret, keys = engine.scheme.load_secret(secret_bytes), engine.scheme.load_keys(key_bytes)
    theirs, ours, errors = [], [], []
    for image in images:
        values = image_values(image[None], bundle.specification)
        logits, seconds = peer.evaluate(values[0])
        theirs.append(seconds)
        errors.append(float(np.abs(logits - bundle.plan.logits(values)[0]).max()))
        question = [engine.scheme.encrypt(slots, secret) for slots in image_slots(image, bundle.specification)]
        started = time.perf_counter()
        engine.evaluate(question, keys)
        ours.append(time.perf_counter() - started)
    return {
        "tenseal_highlevel_s": statistics.median(theirs),
        "tenseal_logit_error": max(errors),
        "speedup": statistics.median(theirs) / statistics.median(ours),
    }


def measure_scaling(bundle: Bundle, image: Tensor, *, questions: int) -> float:
    """Throughput of two processes over that of one; each answers `questions` questions."""
    engine = Engine(bundle.plan)
    secret_bytes, key_bytes = engine.scheme.generate_keys()
    secret = engine.scheme.load_secret(secret_bytes)
    question = [engine.scheme.encrypt(slots, secret) for slots in image_slots(image, bundle.specification)]
    with tempfile.TemporaryDirectory() as folder:
        save_bundle(Path(folder) / "bundle", bundle)
        rates = [_rate(Path(folder) / "bundle", key_bytes, question, count, questions) for count in (1, 2)]
    return rates[1] / rates[0]


def _rate(folder: Path, key_bytes: bytes, question: list[bytes], processes: int, questions: int) -> float:
    context = multiprocessing.get_context("spawn")
    barrier, times = context.Barrier(processes), context.SimpleQueue()
    started = [
        context.Process(target=_answer, args=(folder, key_bytes, question, questions, barrier, times))
        for _ in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"a measuring process ended with {process.exitcode}")
    spans = [times.get() for _ in started]
    return processes * questions / (max(end for _, end in spans) - min(begin for begin, _ in spans))


def _answer(
    folder: Path, key_bytes: bytes, question: list[bytes], questions: int, barrier: Barrier, times: Any
) -> None:
    engine = Engine(load_bundle(folder).plan)
    keys = engine.scheme.load_keys(key_bytes)
    engine.evaluate(question, keys)  # warm
    barrier.wait(timeout=300)
    begin = time.monotonic()  # the same clock in all processes of a machine
    for _ in range(questions):
        engine.evaluate(question, keys)
    times.put((begin, time.monotonic()))


def bundles_of(
    folder: Path | None, names: Sequence[str], *, seed: int, images: int
) -> dict[str, tuple[Bundle, Tensor]]:
    """For each name a model and images for it."""
    found = {}
    for name in names:
        pixels = SCATTERING_PIXELS if name == "scattering" else PIPELINE_PIXELS
        if folder is not None:
            bundle = load_bundle(folder / name)
            pixels = bundle.specification.pipeline_pixels
        else:
            network = network_of(name, phantoms(16, pixels, seed=seed), seed=seed)
            bundle = make_bundle(network, classes=CLASSES, pipeline_pixels=pixels, teacher_digest="0" * 64)
        found[name] = bundle, phantoms(images, pixels, seed=seed + 1)
    return found


def _machine() -> dict[str, Any]:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and, with --json, one JSON object as the last line."""
    parser = argparse.ArgumentParser(description="What a diagnosis on an encrypted image costs.")
    parser.add_argument("--bundles", type=Path, help="folder of saved bundles, named as the models are")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=None, help="default: all, or those in --bundles")
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of weights and phantoms; keys are always fresh")
    parser.add_argument("--no-tenseal", action="store_true", help="leave out TenSEAL's vectors")
    parser.add_argument("--no-scaling", action="store_true", help="leave out the second process")
    parser.add_argument("--describe", action="store_true", help="print each plan")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    options = parser.parse_args(arguments)
    if options.images < 1:
        parser.error("--images must be at least 1")
    there = [name for name in NAMES if options.bundles is None or (options.bundles / name / "bundle.json").exists()]
    names = options.models or there
    if not names or not set(names) <= set(there):
        parser.error(f"--bundles {options.bundles} holds {', '.join(there) or 'no model'}; name the ones to measure")

    torch.set_num_threads(1)
    models = bundles_of(options.bundles, names, seed=options.seed, images=options.images)
    figures: dict[str, Any] = {}
    print(f"{'model':<12}{'server s':>10}{'client s':>10}{'up MB':>8}{'reply MB':>10}{'keys MB':>9}{'logit error':>13}")
    for name, (bundle, images) in models.items():
        if options.describe:
            print(bundle.plan.describe())
        row = measure(bundle, images)
        for key, value in row.items():
            figures.setdefault(key, {})[name] = value
        print(
            f"{name:<12}{row['latency_s']:>10.3f}{row['client_s']:>10.3f}{row['upload_mb']:>8.2f}"
            f"{row['reply_mb']:>10.3f}{row['keys_mb']:>9.1f}{row['logit_error']:>13.2e}",
            flush=True,
        )
    if TENSEAL in models and not options.no_tenseal:
        bundle, images = models[TENSEAL]
        figures |= measure_tenseal(bundle, images[:TENSEAL_IMAGES])
        print(
            f"TenSEAL's vectors at {TENSEAL} pixels: {figures['tenseal_highlevel_s']:.2f} s, "
            f"{figures['speedup']:.0f} times as long; error {figures['tenseal_logit_error']:.1e}",
            flush=True,
        )
    if SCALED in models and not options.no_scaling:
        bundle, images = models[SCALED]
        figures["scaling_2_processes"] = measure_scaling(bundle, images[0], questions=2 * options.images)
        print(f"Two processes answer {figures['scaling_2_processes']:.2f} times as many questions as one")
    figures |= {
        "machine": _machine(),
        "load": os.getloadavg()[0],
        "seed": options.seed,
        "images": options.images,
    }
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
