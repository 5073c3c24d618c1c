"""Running attacks: work in parts that survive a kill, and the reports once all parts are there."""

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

import primia
from primia.attacks.audit import OneRunAudit
from primia.attacks.contract import Attack, AttackReport, Part
from primia.attacks.identity import words_for
from primia.attacks.imprint import Imprint
from primia.attacks.inversion import GradientInversion
from primia.attacks.membership import MembershipInference
from primia.attacks.retrieval import GradientRetrieval
from primia.attacks.scene import Scene
from primia.attacks.verdict import judge
from primia.data.image_set import ImageSet
from primia.errors import ConfigError
from primia.files import sha256_of_file, write_bytes

_SECONDS = "seconds"
# Of the declared privacy, in the settings of a report.
_DECLARED = (
    "clip_norm",
    "noise_multiplier",
    "sampling_rate",
    "steps",
    "steps_per_round",
    "views",
    "statistics_noise",
    "epsilon",
    "delta",
)


def attacks_on(scene: Scene, names: Sequence[str] = ()) -> list[Attack]:
    """All attacks that the scene has a place for, or those named.

    Raises:
        ConfigError: there is no attack of a name.
    """
    attacks: list[Attack] = [
        GradientRetrieval("first"),
        GradientRetrieval("released"),
        GradientInversion("first"),
        GradientInversion("released"),
        Imprint("first"),
        MembershipInference("released"),
        OneRunAudit("released"),
    ]
    declared = scene.declared
    if declared is not None and not declared.discrete:  # with noise in shares a round is a step
        attacks.insert(2, GradientRetrieval("released", view="round"))
    if scene.budget.name == "quick":  # the first weights are the worst point of a training
        attacks.remove(GradientInversion("released"))
    known = sorted({attack.name for attack in attacks})
    for name in names:
        if name not in known:
            raise ConfigError(f"There is no attack {name} on this model, only {', '.join(known)}; choose one of them.")
    return [attack for attack in attacks if not names or attack.name in names]


@dataclass(frozen=True)
class Job:
    """One part of one attack."""

    attack: Attack
    index: int

    @property
    def name(self) -> str:
        """For people and files."""
        return f"{self.attack.name}-{self.attack.round}-{self.index}"


class Campaign:
    """Some attacks on one scene. Jobs may be done in any order, by several threads, and in several runs."""

    def __init__(
        self, scene: Scene, attacks: Sequence[Attack], state: Path, *, on_progress: Callable[[int, int], None]
    ) -> None:
        """`state` keeps finished parts; `on_progress` is told per mille done, from the thread that did it."""
        self.scene, self.attacks = scene, tuple(attacks)
        self._folder, self._data_hash = state / _digest(scene), hash_of(*scene.images)
        self.jobs = [Job(attack, index) for attack in self.attacks for index in range(attack.parts(scene))]
        self._done = {job.name: 1.0 if self._load(job) else 0.0 for job in self.jobs}
        self._tell, self._lock = on_progress, threading.Lock()

    def do(self, job: Job) -> None:
        """Do a job and keep what it gives, unless an earlier run has."""
        if self._load(job) is None:
            started = time.monotonic()
            part = job.attack.part(self.scene, job.index, lambda done, total: self._advance(job, done / total))
            values = {**part.values, _SECONDS: time.monotonic() - started}
            metadata = {"values": json.dumps(values)}
            arrays = {name: array.contiguous() for name, array in part.arrays.items()}
            write_bytes(self._file(job), save(arrays, metadata=metadata))
        self._advance(job, 1.0)

    def reports(self) -> list[AttackReport]:
        """Judge every attack, in their order; all jobs must have been done."""
        return [self._report(attack) for attack in self.attacks]

    def forget(self) -> None:
        """Remove the kept parts."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _report(self, attack: Attack) -> AttackReport:
        parts = [self._finished(job) for job in self.jobs if job.attack == attack]
        scene, confidence = self.scene, self.scene.settings.confidence
        outcome = attack.gather(scene, parts)
        verdict, reason = judge(outcome, attack=attack, budget=scene.budget, confidence=confidence)
        model, declared = scene.first if attack.round == "first" else scene.released, scene.declared
        return AttackReport(
            name=attack.name,
            version=attack.version,
            tier=attack.tier,
            round=attack.round,
            verdict=verdict,
            reason=reason,
            outcome=outcome,
            confidence=confidence,
            budget=scene.budget.name,
            seconds=round(sum(part.values[_SECONDS] for part in parts), 3),
            model_digest=model.digest(),
            model_round=model.round,
            data_hash=self._data_hash,
            settings={
                **scene.settings.model_dump(mode="json"),
                **{name: getattr(declared, name, None) for name in _DECLARED},
            },
        )

    def _finished(self, job: Job) -> Part:
        part = self._load(job)
        assert part is not None, job.name
        return part

    def _load(self, job: Job) -> Part | None:
        try:
            with safe_open(self._file(job), framework="pt") as kept:
                arrays = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118 - no mapping
                return Part(json.loads(kept.metadata()["values"]), arrays)
        except (FileNotFoundError, SafetensorError):  # a damaged part is done again
            return None

    def _file(self, job: Job) -> Path:
        return self._folder / f"{job.name}.safetensors"

    def _advance(self, job: Job, share: float) -> None:
        with self._lock:
            self._done[job.name] = max(share, self._done[job.name])
            self._tell(int(1000 * sum(self._done.values()) / len(self.jobs)), 1000)


def hash_of(*sets: ImageSet) -> str:
    """SHA-256 over everything an attack sees of sets of images."""
    digest = hashlib.sha256()
    for images in sets:
        digest.update(repr((images.image_ids, images.patient_ids, images.classes)).encode())
        for tensor in (images.images, images.labels, images.patients):
            digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(scene: Scene) -> str:
    """Everything that decides what a part gives, the code included."""
    told = [scene.first.digest(), scene.released.digest(), hash_of(*scene.images)]
    told += [repr(each) for each in (scene.declared, scene.training, scene.budget, scene.settings, scene.aggregation)]
    # Of noise the kind, with its flaw if it is to have one: what it gives is never the same twice.
    flaw = getattr(scene.noise, "flaw", None)
    told += [words_for(each) for each in (scene.step, scene.trainer, type(scene.noise), flaw)]
    told.append(torch.__version__)
    told += [sha256_of_file(path) for path in sorted(Path(primia.__file__).parent.rglob("*.py"))]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]
