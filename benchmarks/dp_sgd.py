"""What clipping per patient costs beside plain training and beside Opacus.

    python -m benchmarks.dp_sgd --model resnet18 --size 112 --json

Everyone computes the gradient of one batch of random images: plain training that of the mean loss, the others the sum
of gradients clipped one by one. Neither data loading, nor noise, nor the step itself is in it. All take turns, so that
a busy machine slows all alike; times are medians. Plain training and Opacus run with either memory format, and Opacus
in all its modes; only the fastest counts. The last line of `--json` is one JSON object:

- plain_images_s, plain_runs: plain training in the fastest memory format, and which one that is.
- dp_images_s: this project's clipped sum, as `primia.training.private` computes it.
- opacus_images_s, opacus_runs: Opacus in its fastest mode, and which mode, type and memory format that is.
- ratio_to_plain, ratio_to_opacus: medians over the turns of dp_images_s over the other two, each within one turn.
- max_gradient_error: largest difference of any coordinate between the clipped sum in float32 and a loop of single
  backward passes, at clip norm 1.
- tried_images_s: what each contender did in a first trial, from which the fastest were chosen.
- left_out: what of Opacus failed or computes a wrong sum (its own rules do with channels last), with the reason.
- opacus_differs: whether Opacus' type is not the one asked for.
- noise_s: seconds that one step's noise takes on top, whatever the batch.
- model, size, parameters, batch, dtype, clock, threads, repeats, machine.

On a machine that others use too, threads wait for each other at every step; one thread and the clock `cpu` are then
better.
"""

import argparse
import copy
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.opacus_modes import MODES, opacus_gradient
from primia.models.networks import SEGMENTING, build_network
from primia.models.scattering import CHANNELS, STRIDE
from primia.privacy.noise import SystemNoise
from primia.training.clipped_gradients import clipped_sum

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLASSES = 3
CHECKED = 6  # images in the comparison with single backward passes

Contender = Callable[[], Any]


def measure(
    *, model: str, size: int, batch: int, dtype: str, repeats: int, clock: str, seed: int = 0
) -> dict[str, Any]:
    """Measure all contenders on one model; the keys are those of the module's docstring."""
    head, rows, labels = scene(model, size=size, batch=batch, seed=seed)
    plain = {
        f"{dtype} {layout}": plain_gradient(head, rows, labels, bfloat16=dtype == "bfloat16", layout=layout)
        for layout in LAYOUTS
    }
    peers, out = _opacus(head, rows, labels, dtype=dtype)
    tried = {f"plain {name}": batch / _trial(run, clock) for name, run in plain.items()}
    for name, run in list(peers.items()):
        try:
            tried[f"opacus {name}"] = batch / _trial(run, clock)
        except (RuntimeError, ValueError, NotImplementedError, AttributeError) as error:
            out[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            del peers[name]
    fastest_plain = max(plain, key=lambda name: tried[f"plain {name}"])
    fastest_peer = max(peers, key=lambda name: tried[f"opacus {name}"])

    def ours() -> dict[str, Tensor]:
        return clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0, precision=dtype)

    ours()
    seconds = _in_turns([plain[fastest_plain], ours, peers[fastest_peer]], repeats, clock)
    of_plain, of_ours, of_peer = (median(each) for each in seconds)
    return {
        "plain_images_s": batch / of_plain,
        "dp_images_s": batch / of_ours,
        "opacus_images_s": batch / of_peer,
        "ratio_to_plain": median(p / o for p, o in zip(seconds[0], seconds[1], strict=True)),
        "ratio_to_opacus": median(p / o for p, o in zip(seconds[2], seconds[1], strict=True)),
        "max_gradient_error": gradient_error(head, rows[:CHECKED], labels[:CHECKED]),
        "plain_runs": fastest_plain,
        "opacus_runs": fastest_peer,
        "opacus_differs": dtype not in fastest_peer,
        "tried_images_s": tried,
        "left_out": out,
        "noise_s": _trial(lambda: [SystemNoise().normal(weight.shape) for weight in head.parameters()], clock),
        "model": model,
        "size": size,
        "parameters": sum(weight.numel() for weight in head.parameters()),
        "batch": batch,
        "dtype": dtype,
        "clock": clock,
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "machine": _machine(),
    }


def scene(model: str, *, size: int, batch: int, seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A head, a random batch of what it takes in, and labels or masks."""
    head = build_network(model, classes=CLASSES, pixels=size, seed=seed).head.train()
    generator = torch.Generator().manual_seed(seed)
    side = size // STRIDE
    shape = (batch, CHANNELS, side, side) if model == "scattering" else (batch, 1, size, size)
    labelled = (batch, size, size) if model in SEGMENTING else (batch,)
    return head, torch.randn(shape, generator=generator), torch.randint(0, CLASSES, labelled, generator=generator)


def plain_gradient(head: nn.Module, rows: Tensor, labels: Tensor, *, bfloat16: bool, layout: str) -> Contender:
    """The gradient as `train_plain` computes it, in one of the memory formats."""
    head, rows = _laid_out(head, rows, layout)
    weights = list(head.parameters())

    def gradient() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits = head(rows).float()
        return torch.autograd.grad(functional.cross_entropy(logits, labels), weights)

    return gradient


def gradient_error(head: nn.Module, rows: Tensor, labels: Tensor) -> float:
    """Largest difference of a coordinate between the clipped sum and single backward passes, float32, clip norm 1."""
    weights = dict(head.named_parameters())
    expected = {name: torch.zeros_like(weight, dtype=torch.float64) for name, weight in weights.items()}
    for row, label in zip(rows, labels, strict=True):
        loss = functional.cross_entropy(head(row[None]), label[None])
        single = torch.autograd.grad(loss, list(weights.values()))
        norm = torch.stack([value.double().square().sum() for value in single]).sum().sqrt()
        for name, value in zip(weights, single, strict=True):
            expected[name] += value.detach().double() / norm.clamp_min(1.0)
    found = clipped_sum(head, rows=rows, labels=labels, clip_norm=1.0)
    return max((found[name] - expected[name]).abs().max().item() for name in weights)


def _opacus(
    head: nn.Module, rows: Tensor, labels: Tensor, *, dtype: str
) -> tuple[dict[str, Contender], dict[str, str]]:
    """Opacus by "mode type layout", in the type asked for and in float32 in case that is faster; and what is out."""
    contenders: dict[str, Contender] = {}
    out: dict[str, str] = {}
    right = clipped_sum(head, rows=rows[:CHECKED], labels=labels[:CHECKED], clip_norm=1.0)
    for layout in LAYOUTS:
        laid_out, maps = _laid_out(head, rows, layout)
        for mode in MODES:
            checked = opacus_gradient(
                mode, laid_out, rows=maps[:CHECKED], labels=labels[:CHECKED], clip_norm=1.0, bfloat16=False
            )()
            error = max((checked[name] - right[name]).abs().max().item() for name in right)
            for kind in dict.fromkeys((dtype, "float32")):
                name = f"{mode} {kind} {layout}"
                if error > 1e-3:
                    out[name] = f"its sum is wrong by {error:.2g} in a coordinate, in float32 with clip norm 1"
                    continue
                contenders[name] = opacus_gradient(
                    mode, laid_out, rows=maps, labels=labels, clip_norm=1.0, bfloat16=kind == "bfloat16"
                )
    return contenders, out


def _laid_out(head: nn.Module, rows: Tensor, layout: str) -> tuple[nn.Module, Tensor]:
    head = copy.deepcopy(head).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    return head, rows.contiguous(memory_format=LAYOUTS[layout]) if rows.dim() == 4 else rows


def _trial(run: Contender, clock: str) -> float:
    run()
    return min(_in_turns([run], 2, clock)[0])


def _in_turns(runs: Sequence[Contender], repeats: int, clock: str) -> list[list[float]]:
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, times in zip(runs, seconds, strict=True):
            began = CLOCKS[clock]()
            run()
            times.append(CLOCKS[clock]() - began)
    return seconds


def _machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "processor": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "torch": torch.__version__,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and, with --json, one JSON object as the last line."""
    parser = argparse.ArgumentParser(description="What clipping per patient costs, beside plain training and Opacus.")
    parser.add_argument(
        "--model", default="resnet18", choices=("resnet18", "convnet", "scattering", *sorted(SEGMENTING))
    )
    parser.add_argument("--size", type=int, default=112, help="side of the square images, in pixels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", default="wall", choices=tuple(CLOCKS), help="cpu: only meaningful with one thread")
    parser.add_argument("--threads", type=int, help="default: what PyTorch takes")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    options = parser.parse_args(arguments)
    if min(options.batch, options.repeats, options.size, options.threads or 1) < 1:
        parser.error("--batch, --repeats, --size and --threads must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    figures = measure(
        model=options.model,
        size=options.size,
        batch=options.batch,
        dtype=options.dtype,
        repeats=options.repeats,
        clock=options.clock,
    )
    print(f"{figures['model']}, {figures['size']} px, batch {figures['batch']}, {figures['threads']} threads")
    for name, rate in sorted(figures["tried_images_s"].items(), key=lambda item: -item[1]):
        print(f"  {name:<36} {rate:9.1f} images/s in a trial")
    for name, reason in figures["left_out"].items():
        print(f"  opacus {name:<29} left out: {reason}")
    print(f"  plain training  {figures['plain_images_s']:9.1f} images/s   ({figures['plain_runs']})")
    print(f"  clipped here    {figures['dp_images_s']:9.1f} images/s   {figures['ratio_to_plain']:.2f} of plain")
    print(f"  Opacus' fastest {figures['opacus_images_s']:9.1f} images/s   ({figures['opacus_runs']})")
    print(
        f"  {figures['ratio_to_opacus']:.2f} times Opacus; largest error {figures['max_gradient_error']:.1e}",
        flush=True,
    )
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
