"""Running gradient retrieval on a model, with its controls, and against a range of noise multipliers."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from primia.attacks.bounds import gaussian_reconstruction_bound
from primia.attacks.contract import AttackReport, Controls, Trials
from primia.attacks.retrieval import KEPT, Attempt, Candidates, Lineups, SiteStep, UpdateRelease, attempt, draw_lineups
from primia.attacks.verdict import judge
from primia.config import Attack
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.models.released import ReleasedModel
from primia.privacy.noise import NoiseSource, SystemNoise
from primia.training.private import private_gradient

NAME = "gradient_retrieval"
VERSION = 1  # goes up with every change that may change a verdict
TIER = "worst case"
CURVE = (0.25, 0.5, 1.0, 2.0, 4.0)
# Candidates come from this many galleries' worth of patients, where memory allows: enough for fresh galleries.
POOL = 3

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CurvePoint:
    """Retrieval at one noise multiplier, with the exact interval and the bound for one step."""

    noise_multiplier: float
    trials: Trials
    low: float
    high: float
    bound: float


def run_retrieval(
    model: ReleasedModel,
    gallery: ImageSet,
    *,
    clip_norm: float,
    noise_multiplier: float,
    settings: Attack,
    on_progress: Progress | None = None,
    noise: NoiseSource | None = None,
    release: UpdateRelease = private_gradient,
) -> AttackReport:
    """Attack the updates that a site's training code releases at the weights of `model`.

    Each trial is one step in which exactly one of `settings.gallery` known patients is drawn; the attacker names
    the patient by likelihood. Worst case: it knows every candidate's image and label, and nobody else takes part.
    Seeds fix galleries and targets, so that all controls see the same ones; the noise is the system's.

    Args:
        model: weights to attack; give round 0 as well as the released ones, and report the worst.
        gallery: patients who serve as candidates, at least `settings.gallery` of them; none is trained on.
        clip_norm: of one patient's gradient, > 0; ignored without privacy.
        noise_multiplier: σ of the training step, in clip norms; 0 if training ran without differential privacy.
        settings: gallery size, number of trials, confidence and seed.
        on_progress: called with (updates seen, updates in all).
        noise: source of the release's noise; the operating system's by default.
        release: the code under attack, with the signature of `private_gradient`.

    Raises:
        DataError: too few patients, or images that do not fit the model.
    """
    started = time.monotonic()
    private = noise_multiplier > 0
    candidates, lineups = _scene(model, gallery, settings)
    source = SystemNoise() if noise is None else noise
    on_trial = _counter((3 if private else 2) * settings.trials, on_progress)

    open_step = SiteStep(candidates, clip_norm=math.inf, release=release, noise=source)
    step = SiteStep(candidates, clip_norm=clip_norm, release=release, noise=source) if private else open_step

    def tried(step: SiteStep, noise_multiplier: float, *, anybody: bool = True) -> Attempt:
        return attempt(step, lineups, noise_multiplier=noise_multiplier, anybody=anybody, on_trial=on_trial)

    undefended = tried(open_step, 0.0)
    nobody = tried(step, noise_multiplier, anybody=False)
    attacked = tried(step, noise_multiplier) if private else undefended
    controls = Controls(positive=undefended.trials, negative=nobody.trials)
    check = attacked.check(step, clip_norm=clip_norm, noise_multiplier=noise_multiplier) if private else None
    bound = _bound(settings, noise_multiplier) if private else None
    verdict, reason = judge(attacked.trials, controls, bound=bound, check=check, confidence=settings.confidence)
    return AttackReport(
        name=NAME,
        version=VERSION,
        tier=TIER,
        verdict=verdict,
        reason=reason,
        trials=attacked.trials,
        bound=bound,
        controls=controls,
        check=check,
        confidence=settings.confidence,
        seconds=round(time.monotonic() - started, 3),
        model_digest=model.digest(),
        model_round=model.round,
        data_hash=hash_of(gallery),
        settings={
            **settings.model_dump(),
            "clip_norm": clip_norm if private else None,
            "noise_multiplier": noise_multiplier,
            "patients": len(candidates.labels),
            "weights": attacked.weights,
        },
    )


def retrieval_curve(
    model: ReleasedModel,
    gallery: ImageSet,
    *,
    clip_norm: float,
    settings: Attack,
    noise_multipliers: Sequence[float] = CURVE,
    on_progress: Progress | None = None,
    noise: NoiseSource | None = None,
    release: UpdateRelease = private_gradient,
) -> list[CurvePoint]:
    """Rate of the same attack, on the same galleries, at several noise multipliers > 0; see `run_retrieval`."""
    candidates, lineups = _scene(model, gallery, settings)
    source = SystemNoise() if noise is None else noise
    on_trial = _counter(len(noise_multipliers) * settings.trials, on_progress)
    step = SiteStep(candidates, clip_norm=clip_norm, release=release, noise=source)
    points = []
    for sigma in noise_multipliers:
        trials = attempt(step, lineups, noise_multiplier=sigma, anybody=True, on_trial=on_trial).trials
        points.append(CurvePoint(sigma, trials, *trials.interval(settings.confidence), _bound(settings, sigma)))
    return points


def hash_of(images: ImageSet) -> str:
    """SHA-256 over everything an attack sees of a set of images."""
    digest = hashlib.sha256(repr((images.image_ids, images.patient_ids, images.classes)).encode())
    for tensor in (images.images, images.labels, images.patients):
        digest.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _scene(model: ReleasedModel, gallery: ImageSet, settings: Attack) -> tuple[Candidates, Lineups]:
    """Deal one image of each candidate patient to the attacker, and who stands in each trial; all from the seed."""
    if tuple(gallery.classes) != tuple(model.classes) or gallery.pixels != model.pixels:
        raise DataError(
            f"The candidates have classes {', '.join(gallery.classes)} at {gallery.pixels} pixels, but the model has "
            f"{', '.join(model.classes)} at {model.pixels}; attack it with images preprocessed for it."
        )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(gallery), generator=generator)
    first_of: dict[int, int] = {}
    for image in order.tolist():
        first_of.setdefault(int(gallery.patients[image]), image)
    if len(first_of) < settings.gallery:
        raise DataError(
            f"The attack needs {settings.gallery} candidate patients, but there are {len(first_of)}; "
            "lower attack.gallery or add test patients."
        )
    # Gradients that do not fit in memory would be computed again for every block of trials: rather fewer candidates.
    weights = sum(parameter.numel() for parameter in model.network.head.parameters())
    pool = max(settings.gallery, min(POOL * settings.gallery, KEPT // weights))
    images = torch.tensor(list(first_of.values())[:pool])
    with torch.no_grad():
        standardised = (gallery.images[images].float() - model.mean) / model.std
        inputs = torch.cat([model.network.front(standardised[at : at + 64]) for at in range(0, len(images), 64)])
    candidates = Candidates(model.network.head, inputs, gallery.labels[images])
    lineups = draw_lineups(patients=len(images), gallery=settings.gallery, trials=settings.trials, generator=generator)
    return candidates, lineups


def _bound(settings: Attack, noise_multiplier: float) -> float:
    return gaussian_reconstruction_bound(chance=1 / settings.gallery, mu=1 / noise_multiplier)


def _counter(total: int, on_progress: Progress | None) -> Callable[[], None]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, total)

    return count
