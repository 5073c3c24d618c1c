"""What a federation costs beside the training itself.

    python -m benchmarks.overhead --sites-folder data/sites --params params.yaml --rounds 2 --json

The real federation of params.yaml runs with a process per hospital. After each of its rounds the same hospitals train
and validate once more, in as many processes at the same time, without keys, masks, messages, ledgers or files: that
is the time the training itself takes. Both take turns, so that a busy machine slows both; memory is needed twice. The
first round of each is not counted, since it imports, reads and computes what later rounds find ready. The last line of
`--json` is one JSON object:

- wall_s: wall time of `rounds` rounds of the federation, from the end of one round to the end of the next.
- training_s: wall time of as many rounds of training alone.
- overhead_s, overhead_fraction: wall_s − training_s, and its share of wall_s: aggregation, channel, orchestration.
- cpu_s, training_cpu_s, cpu_overhead_fraction: the same in CPU time, of the hospitals and the coordinator together;
  it knows nothing of waiting, but hardly notices what else the machine does.
- start_s: what is paid once: by how much the first round ends later than the others take (processes, plan, statistics).
- run_rounds, run_overhead_fraction: the share with the start, for the rounds that params.yaml asks for.
- phases_s: mean seconds of each step of a session, by purpose; `masked_input` holds the training itself.
- sites, parameters, rounds, scheme, architecture: what was measured.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from primia.config import Params, load_params
from primia.federation.checkpoint import RoundRecord
from primia.federation.floors import Floors
from primia.federation.run import federate

_SITE_PROCESS = "primia.federation.site_process"


def train_without_protocol(pipe: Connection, params: Params, name: str, folder: Path) -> None:
    """One hospital's process: for every number of a round that arrives, train and validate, and answer the CPU time."""
    from primia.data.image_set import load_image_set
    from primia.federation.drafting import draft_plan, privacy_plan
    from primia.federation.messages import Description
    from primia.federation.weights import head_vector
    from primia.federation.work import LocalWork
    from primia.privacy.noise import SystemNoise
    from primia.training.pretrain import initial_network

    train, validation = (load_image_set(folder / f"{split}.safetensors") for split in ("train", "validation"))
    described = {
        hospital: Description(
            name=hospital, identity=bytes(32), data="0" * 64, classes=train.classes, pixels=train.pixels
        )
        for hospital in params.preprocess.hospitals
    }
    plan = draft_plan(params, described, privacy=privacy_plan(params))
    work = LocalWork(plan, name=name, train=train, validation=validation)
    network = initial_network(plan.model, plan.training, classes=plan.classes, pixels=plan.pixels)
    model, noise = head_vector(network.head), SystemNoise()
    weights = (1.0,) * len(plan.classes) if plan.training.class_weights else None
    pipe.send(work.parameters)
    while (round := pipe.recv()) is not None:
        before = time.process_time()
        if plan.distributed:
            work.gradient(model, mean=0.5, std=0.25, noise=noise)
        else:
            work.train(model, mean=0.5, std=0.25, round=round, noise=noise, class_weights=weights)
        work.validate(model, mean=0.5, std=0.25)
        pipe.send(time.process_time() - before)


class TrainingAlone:
    """All hospitals' training and validation in processes of their own, a round at a time."""

    def __init__(self, params: Params, sites: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._sites = []
        for name in params.preprocess.hospitals:
            ours, theirs = context.Pipe()
            process = context.Process(target=train_without_protocol, args=(theirs, params, name, sites / name))
            process.start()
            theirs.close()
            self._sites.append((process, ours))
        self.parameters = max(pipe.recv() for _, pipe in self._sites)  # the same at all, once all are ready

    def round(self, number: int) -> tuple[float, float]:
        """Wall time until the last hospital is ready, and the CPU time of all of them."""
        started = time.monotonic()
        for _, pipe in self._sites:
            pipe.send(number)
        cpu = sum(pipe.recv() for _, pipe in self._sites)
        return time.monotonic() - started, cpu

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process, pipe in self._sites:
            if process.is_alive():
                pipe.send(None)
            process.join()


def measure(params: Params, *, sites: Path, rounds: int) -> dict[str, Any]:
    """Run `rounds` counted rounds of both, in turns; the keys are those of the module's docstring."""
    run_rounds = params.federation.rounds
    # One round more, to warm up; neither the early stop nor a rollback may change their number.
    settings = {"rounds": rounds + 1, "patience": None, "rollback_margin": None}
    params = params.model_copy(update={"federation": params.federation.model_copy(update=settings)})
    wall, cpu, alone, alone_cpu = [], [], [], []
    with TrainingAlone(params, sites) as training, tempfile.TemporaryDirectory() as state:
        began, cpu_before = time.monotonic(), 0.0

        def on_round(record: RoundRecord) -> None:
            nonlocal began, cpu_before
            wall.append(time.monotonic() - began)
            cpu.append(_cpu_of_federation() - cpu_before)
            seconds, spent = training.round(record.round)
            alone.append(seconds)
            alone_cpu.append(spent)
            began, cpu_before = time.monotonic(), _cpu_of_federation()

        clear = params.secure_aggregation.scheme == "none"
        federate(params, sites=sites, state=Path(state), floors=Floors(allow_clear=clear), on_round=on_round)
        phases = _phases(Path(state))
        parameters = training.parameters
    wall_s, training_s, cpu_s, training_cpu_s = (sum(each[1:]) for each in (wall, alone, cpu, alone_cpu))
    overhead_s, start_s = wall_s - training_s, wall[0] - wall_s / rounds
    of_run = start_s + run_rounds * overhead_s / rounds
    return {
        "wall_s": wall_s,
        "training_s": training_s,
        "overhead_s": overhead_s,
        "overhead_fraction": overhead_s / wall_s,
        "cpu_s": cpu_s,
        "training_cpu_s": training_cpu_s,
        "cpu_overhead_fraction": (cpu_s - training_cpu_s) / cpu_s,
        "start_s": start_s,
        "run_rounds": run_rounds,
        "run_overhead_fraction": of_run / (of_run + run_rounds * training_s / rounds),
        "phases_s": phases,
        "rounds": rounds,
        "sites": len(params.preprocess.hospitals),
        "parameters": parameters,
        "scheme": params.secure_aggregation.scheme,
        "architecture": params.model.architecture,
    }


def _cpu_of_federation() -> float:
    """CPU seconds so far of the hospitals' processes and of this one, which is the coordinator's."""
    children = [child for child in psutil.Process().children() if _SITE_PROCESS in child.cmdline()]
    spent = [process.cpu_times() for process in (psutil.Process(), *children)]
    return float(sum(times.user + times.system for times in spent))


def _phases(state: Path) -> dict[str, dict[str, float]]:
    """Mean seconds of every step after the first round, by purpose, as the run's rounds.jsonl tells them."""
    seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for path in state.glob("federation/*/rounds.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            for name, phase in record["phases"].items() if record["round"] > 1 else ():
                seconds[record["purpose"]][name].append(phase["seconds"])
    return {
        purpose: {name: sum(values) / len(values) for name, values in steps.items()}
        for purpose, steps in seconds.items()
    }


def _table(result: dict[str, Any]) -> str:
    rows = [
        f"{result['architecture']}, {result['parameters']:,} parameters, {result['sites']} hospitals, "
        f"{result['rounds']} rounds, {result['scheme']}",
        f"  round of the federation  {result['wall_s'] / result['rounds']:8.2f} s",
        f"  training alone           {result['training_s'] / result['rounds']:8.2f} s",
        f"  overhead                 {100 * result['overhead_fraction']:8.1f} %   "
        f"of CPU time {100 * result['cpu_overhead_fraction']:.1f} %",
        f"  start, once              {result['start_s']:8.2f} s",
        f"  overhead of {result['run_rounds']} rounds    {100 * result['run_overhead_fraction']:8.1f} %",
    ]
    for purpose, steps in result["phases_s"].items():
        rows.append(f"  {purpose}: " + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in steps.items()))
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table and, with --json, one JSON object as the last line."""
    parser = argparse.ArgumentParser(description="What a federation costs beside the training itself.")
    parser.add_argument("--sites-folder", type=Path, default=Path("data/sites"))
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--rounds", type=int, default=2, help="counted rounds; one more is run to warm up")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 1:
        parser.error("--rounds must be at least 1")
    result = measure(load_params(chosen.params), sites=chosen.sites_folder, rounds=chosen.rounds)
    print(_table(result))
    if chosen.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
