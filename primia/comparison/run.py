"""The comparison itself: every arm with every seed is trained and judged on the test patients."""

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import primia
from primia.comparison.arms import Arm, arms_of
from primia.comparison.judging import judge
from primia.comparison.outcome import Comparison, Outcome, load_outcome, save_outcome
from primia.comparison.side_by_side import Job, train_side_by_side
from primia.config import Params
from primia.data.image_set import ImageSet, load_image_set
from primia.errors import DataError, PrimiaError
from primia.federation.coordinator import FederationResult
from primia.federation.floors import Floors
from primia.federation.run import federate
from primia.files import sha256_of_file


def compare(
    params: Params,
    *,
    sites: Path,
    test: Path,
    state: Path,
    on_round: Callable[[int, int], None],
    on_result: Callable[[Comparison], None],
) -> None:
    """Train all arms of `params` with all of `comparison.seeds`.

    An interrupted comparison goes on after the last finished arm, a federated arm after its last finished round. The
    hospitals' ledgers of real runs are neither read nor charged: nothing here is covered by their budgets.

    Args:
        params: all of params.yaml.
        sites: holds one folder per hospital with train.safetensors and validation.safetensors. All of them are read
            here, which is possible only where they lie on one machine.
        test: file of the test patients.
        state: for what must outlive an interruption; emptied at the end.
        on_round: called after every round with the number of finished rounds and that of all.
        on_result: saves the result; only when it returns is the unfinished work forgotten.

    Raises:
        PrimiaError: one sentence with the reason, and the name of the arm where one is at fault.
    """
    arms, seeds = arms_of(params), tuple(dict.fromkeys(params.comparison.seeds))
    judged_on, folder = load_image_set(test), state / _digest(params, sites=sites, test=test)
    # By arm first, so that the longest trainings in one place are begun first.
    jobs = {(arm, seed): Job(arm.name, seed, _file(folder, arm, seed)) for arm, seed in itertools.product(arms, seeds)}
    rounds = params.federation.rounds
    finished = {job: rounds for job in jobs.values() if load_outcome(job.outcome) is not None}

    def tell(job: Job, round: int) -> None:
        finished[job] = round
        on_round(sum(finished.values()), rounds * len(jobs))

    left = {(arm, seed): job for (arm, seed), job in jobs.items() if job not in finished}
    in_one_place = [job for (arm, _), job in left.items() if not arm.federated]
    train_side_by_side(in_one_place, params=params, sites=sites, test=test, on_round=tell)
    for (arm, seed), job in left.items():
        if arm.federated:
            _train_federated(arm, seed, job, params=params, sites=sites, test=judged_on, on_round=tell)
        if finished.get(job) != rounds:  # it stopped early
            tell(job, rounds)
    outcomes = {arm.name: {seed: _finished(jobs[arm, seed]) for seed in seeds} for arm in arms}
    labels, patients = judged_on.labels.numpy(), judged_on.patients.numpy()
    on_result(Comparison(arms, seeds, outcomes, labels=labels, patients=patients))
    shutil.rmtree(folder)


def _train_federated(
    arm: Arm,
    seed: int,
    job: Job,
    *,
    params: Params,
    sites: Path,
    test: ImageSet,
    on_round: Callable[[Job, int], None],
) -> None:
    """Run the real protocol with throw-away hospitals: their own keys and ledgers, and floors as the arm needs them."""
    started, state = time.monotonic(), job.outcome.with_suffix("")

    def save(result: FederationResult) -> None:
        seconds = time.monotonic() - started
        outcome = judge(result.model, test, settings=params.evaluation, seconds=seconds, epsilon=result.epsilon)
        save_outcome(job.outcome, outcome)

    try:
        federate(
            arm.params(params, seed=seed),
            sites=sites,
            state=state,
            floors=Floors(
                allow_clear=not arm.masked, maximum_epsilon=100.0, maximum_delta=1.0, lifetime_epsilon=1000.0
            ),
            on_round=lambda record: on_round(job, record.round),
            on_result=save,
        )
    except PrimiaError as error:
        raise PrimiaError(f"Comparison, arm {arm.name}: {error}") from error
    shutil.rmtree(state)


def _file(folder: Path, arm: Arm, seed: int) -> Path:
    return folder / f"{arm.name.replace(': ', '-')}-seed-{seed}.safetensors"


def _finished(job: Job) -> Outcome:
    outcome = load_outcome(job.outcome)
    assert outcome is not None, job
    return outcome


def _digest(params: Params, *, sites: Path, test: Path) -> str:
    """Everything that decides an outcome, but for the seed: parameters, images and code."""
    sections = {"ingest", "preprocess", "model", "training", "federation", "secure_aggregation", "privacy"}
    told = params.model_dump(mode="json", include=sections)
    del told["model"]["seed"], told["training"]["seed"]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    hospitals, splits = params.preprocess.hospitals, ("train", "validation")
    images = [sites / name / f"{split}.safetensors" for name in hospitals for split in splits]
    code = sorted(Path(primia.__file__).parent.rglob("*.py"))
    missing = [path for path in images if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]} is missing; run the preprocess stage (dvc repro preprocess).")
    for path in (test, *images, *code):
        digest.update(bytes.fromhex(sha256_of_file(path)))
    return digest.hexdigest()[:16]
