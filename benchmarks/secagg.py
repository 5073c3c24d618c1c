"""What secure aggregation costs, beside bare AES and CKKS.

    python -m benchmarks.secagg --sites 5 --parameters 11181123 --drop 1 --json
    python -m benchmarks.secagg --scaling

The real protocol runs in one process with every message encoded; times are CPU seconds of one core, medians over
repetitions (and over sites, for a site's work). Runs and the AES limit take turns within a repetition, so that a busy
machine slows both; one small session warms up first. The last line of `--json` is one JSON object:

- exact: the unmasked sum equals the plain sum of the surviving sites' integers, bit for bit, in every repetition.
- site_cpu_s: one site's work in a session: quantise, pack, keys, shares, masks, signing, revealing. Encoding its
  messages comes on top: site_encode_s.
- coordinator_cpu_s: sum and unmasking, with the recovery of the dropped sites.
- traffic_ratio: bytes up per site, all messages encoded, over the size of the parameters in float32.
- aes_limit_s: as many AES-256-CTR keystream bytes as a site's masks have (its own, and one per neighbour: for up to
  50 sites that is sites x parameters x 4), made in blocks of 1 MiB with nothing done to them.
- ratio_to_limit: site_cpu_s / aes_limit_s.
- ckks_site_s, ckks_traffic_ratio: a site's encryption of the same vector under secure_aggregation.scheme ckks, and
  its size; ckks_coordinator_s adds the sites, ckks_decrypt_s is the one site that reads the sum.
"""

import argparse
import json
import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.secagg_session import WORD, Measured, names_of, run_session
from benchmarks.timing import Stopwatch
from primia.federation import messages as m
from primia.federation.codec import encode
from primia.secagg.homomorphic import Adder, KeyHolder, generate
from primia.secagg.session import Session
from primia.secagg.threshold import MINIMUM_COHORT, threshold

SCALING_SITES = (3, 10, 30, 60, 100)  # two with the sparse graph, to show that it is flat
SCALING_PARAMETERS = 1 << 18
WARM_UP_PARAMETERS = 1 << 16


def measure(*, sites: int, parameters: int, drop: int, seed: int, repeats: int) -> dict[str, Any]:
    """Medians of `repeats` sessions of masking; the keys are those of the module's docstring."""
    run_session(sites=sites, parameters=min(parameters, WARM_UP_PARAMETERS), drop=drop, seed=seed, attempt=repeats + 1)
    runs: list[Measured] = [
        run_session(sites=sites, parameters=parameters, drop=drop, seed=seed, attempt=attempt)
        for attempt in range(1, repeats + 1)
    ]
    site = [watch for run in runs for watch in run.sites.values()]
    site_cpu_s = statistics.median(watch.total for watch in site)
    aes_limit_s = statistics.median(seconds for run in runs for seconds in run.limit_s)
    bytes_up = max(size for run in runs for size in run.bytes_up.values())
    return {
        "sites": sites,
        "parameters": parameters,
        "drop": drop,
        "masks_per_site": runs[0].masks,
        "exact": all(run.exact for run in runs),
        "site_cpu_s": site_cpu_s,
        "site_phases_s": {name: statistics.median(watch.phases[name] for watch in site) for name in site[0].phases},
        "site_encode_s": statistics.median(watch.total for run in runs for watch in run.messages.values()),
        "coordinator_cpu_s": statistics.median(run.coordinator.total for run in runs),
        "traffic_ratio": bytes_up / (WORD * parameters),
        "traffic_overhead_bytes": bytes_up - WORD * parameters,
        "aes_limit_s": aes_limit_s,
        "ratio_to_limit": site_cpu_s / aes_limit_s,
    }


def measure_ckks(*, sites: int, parameters: int, seed: int, measured_parameters: int | None = None) -> dict[str, Any]:
    """One sum under CKKS; with fewer `measured_parameters`, figures are scaled up to `parameters`.

    Every site sends the same vector, since 165 MB for each of them would not fit everywhere.
    """
    measured = min(measured_parameters or parameters, parameters)
    scale = parameters / measured
    words = np.random.default_rng(seed).integers(0, 2**32, measured, dtype=np.uint32)
    keys = generate()
    holder, adder = KeyHolder(*keys), Adder(keys[1])
    holder.encrypt(words[:1])
    watch = Stopwatch()
    with watch.phase("site"):
        vector = holder.encrypt(words)
    session = Session(run=f"benchmark-{seed}", round=1, attempt=1, purpose="train")
    size = len(encode(m.MaskedInput(session=session, vector=vector)))
    with watch.phase("coordinator"):
        total = adder.add(dict.fromkeys(names_of(sites), vector), words=measured)
    with watch.phase("decrypt"):
        decrypted = holder.decrypt(total, words=measured)
    return {
        "ckks_measured_parameters": measured,
        "ckks_exact": bool(np.array_equal(decrypted, words * np.uint32(sites))),
        "ckks_site_s": watch.phases["site"] * scale,
        "ckks_coordinator_s": watch.phases["coordinator"] * scale,
        "ckks_decrypt_s": watch.phases["decrypt"] * scale,
        "ckks_traffic_ratio": size / (WORD * measured),
        "ckks_download_ratio": len(total) / (WORD * measured),
    }


def measure_scaling(*, counts: Sequence[int], parameters: int, drop: int, seed: int, repeats: int) -> Iterator[dict]:
    """`measure` for several numbers of sites, one by one; fewer drop out where the threshold allows fewer."""
    for sites in counts:
        allowed = min(drop, sites - threshold(sites))
        yield measure(sites=sites, parameters=parameters, drop=allowed, seed=seed, repeats=repeats)


def plot_scaling(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """CPU time and traffic per site against the number of sites."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    sites = [row["sites"] for row in rows]
    figure, (time_axis, traffic_axis) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    time_axis.plot(sites, [1e3 * row["site_cpu_s"] for row in rows], "o-", label="one site")
    time_axis.plot(sites, [1e3 * row["coordinator_cpu_s"] for row in rows], "s-", label="coordinator")
    time_axis.plot(sites, [1e3 * row["aes_limit_s"] for row in rows], "--", color="grey", label="bare AES, one site")
    time_axis.set(ylabel="CPU time per session (ms)", yscale="log")
    time_axis.legend(frameon=False)
    traffic_axis.plot(sites, [row["traffic_overhead_bytes"] / 1e3 for row in rows], "o-")
    traffic_axis.set(ylabel="sent by one site beyond its vector (kB)", ylim=(0, None))
    for axis in (time_axis, traffic_axis):
        axis.set(xlabel="sites", xscale="log", xticks=sites, xticklabels=sites)
        axis.minorticks_off()
    figure.suptitle(f"Secure aggregation of {rows[0]['parameters']:,} parameters; sparse graph above 50 sites")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and, with --json, one JSON object as the last line."""
    parser = argparse.ArgumentParser(description="What secure aggregation costs, beside bare AES and CKKS.")
    parser.add_argument("--sites", type=int, default=5)
    parser.add_argument(
        "--parameters", type=int, help=f"default 11181123 (ResNet-18), or {SCALING_PARAMETERS} to scale"
    )
    parser.add_argument("--drop", type=int, default=1, help="sites that vanish before sending their vector")
    parser.add_argument("--seed", type=int, default=1, help="of the deltas and their rounding; keys are always fresh")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object on the last line")
    parser.add_argument("--no-ckks", action="store_true", help="leave out homomorphic encryption")
    parser.add_argument("--ckks-parameters", type=int, help="measure CKKS on so many and scale the times up")
    parser.add_argument(
        "--scaling", action="store_true", help="cost for 3, 10, 30, 60 and 100 sites instead, and a plot"
    )
    parser.add_argument("--plot", type=Path, default=Path("results/benchmarks/secagg_scaling.png"))
    options = parser.parse_args(arguments)
    parameters = options.parameters or (SCALING_PARAMETERS if options.scaling else 11_181_123)
    if parameters < 1 or options.repeats < 1 or (options.ckks_parameters or 1) < 1:
        parser.error("--parameters, --repeats and --ckks-parameters must be at least 1")
    if options.sites < MINIMUM_COHORT:
        parser.error(f"--sites must be at least {MINIMUM_COHORT}")
    if not options.scaling and not 0 <= options.drop <= options.sites - threshold(options.sites):
        parser.error(f"with {options.sites} sites at most {options.sites - threshold(options.sites)} can drop out")

    figures: dict[str, Any] = {"cores": os.cpu_count(), "seed": options.seed, "repeats": options.repeats}
    common = {"parameters": parameters, "drop": options.drop, "seed": options.seed, "repeats": options.repeats}
    print(f"CPU seconds, medians of {options.repeats} repetitions, {parameters:,} parameters, {os.cpu_count()} cores.")
    if options.scaling:
        rows = []
        print("sites  dropped  masks  exact    site s  coordinator s  AES limit s  ratio  traffic  overhead")
        for row in measure_scaling(counts=SCALING_SITES, **common):
            rows.append(row)
            print(
                f"{row['sites']:5}  {row['drop']:7}  {row['masks_per_site']:5}  {row['exact']!s:5}  "
                f"{row['site_cpu_s']:8.4f}  {row['coordinator_cpu_s']:13.4f}  {row['aes_limit_s']:11.4f}  "
                f"{row['ratio_to_limit']:5.2f}  {row['traffic_ratio']:7.4f}  "
                f"{row['traffic_overhead_bytes'] / 1e3:5.1f} kB",
                flush=True,
            )
        plot_scaling(rows, options.plot)
        print(f"Plot: {options.plot}")
        figures["scaling"] = rows
    else:
        figures |= measure(sites=options.sites, **common)
        _print_masking(figures)
        if not options.no_ckks:
            figures |= measure_ckks(
                sites=options.sites,
                parameters=parameters,
                seed=options.seed,
                measured_parameters=options.ckks_parameters,
            )
            _print_ckks(figures)
    if options.json:
        print(json.dumps(figures))


def _print_masking(figures: dict[str, Any]) -> None:
    print(f"Masking, {figures['sites']} sites of which {figures['drop']} drop out; exact: {figures['exact']}")
    for phase, seconds in figures["site_phases_s"].items():
        print(f"  a site: {phase:<16} {seconds:9.4f} s")
    print(f"  a site, all of it        {figures['site_cpu_s']:9.4f} s")
    print(f"  bare AES keystream       {figures['aes_limit_s']:9.4f} s   ratio {figures['ratio_to_limit']:.2f}")
    print(f"  a site: encoding         {figures['site_encode_s']:9.4f} s   (on top)")
    print(f"  coordinator              {figures['coordinator_cpu_s']:9.4f} s")
    print(
        f"  traffic up per site      {figures['traffic_ratio']:9.4f} of float32 "
        f"(+{figures['traffic_overhead_bytes'] / 1e3:.1f} kB)",
        flush=True,
    )


def _print_ckks(figures: dict[str, Any]) -> None:
    measured = figures["ckks_measured_parameters"]
    scaled = "" if measured == figures["parameters"] else f", scaled up from {measured:,} parameters"
    print(f"CKKS, one run{scaled}; exact: {figures['ckks_exact']}")
    print(f"  a site                   {figures['ckks_site_s']:9.4f} s")
    print(f"  coordinator              {figures['ckks_coordinator_s']:9.4f} s")
    print(f"  the site that decrypts   {figures['ckks_decrypt_s']:9.4f} s")
    print(f"  traffic up per site      {figures['ckks_traffic_ratio']:9.4f} of float32")


if __name__ == "__main__":
    main()
