"""Broken releases that an attack must find: the classic defects of private training, and of its accounting."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from primia.attacks.scene import Declared, Scene
from primia.privacy.accounting import epsilon_of, quick_epsilon
from primia.privacy.noise import NoiseSource

_FAR = 1e6  # clip norms that no gradient has


class RepeatingNoise:
    """Gives the same normal values again whenever the same shape is asked for; patients are drawn as they should.

    Parts of an attack share it, and a keystream serves one thread at a time.
    """

    def __init__(self, source: NoiseSource) -> None:
        self._source, self._lock = source, threading.Lock()
        self._normal: dict[tuple[int, ...], Tensor] = {}
        self._discrete: dict[int, NDArray[np.int64]] = {}

    def normal(self, shape: Any) -> Tensor:
        """As `NoiseSource`."""
        with self._lock:
            if tuple(shape) not in self._normal:
                self._normal[tuple(shape)] = self._source.normal(shape)
            return self._normal[tuple(shape)].clone()

    def uniform(self, n: int) -> Tensor:
        """As `NoiseSource`."""
        with self._lock:
            return self._source.uniform(n)

    def discrete(self, n: int) -> NDArray[np.int64]:
        """As `NoiseSource`."""
        with self._lock:
            if n not in self._discrete:
                self._discrete[n] = self._source.discrete(n)
            return self._discrete[n].copy()


@dataclass(frozen=True)
class FlawedNoise:
    """Noise of another source with a defect that its deviation does not show; patients are drawn as they should.

    `flaw` takes fresh values, flat, and gives as many.
    """

    source: NoiseSource
    flaw: Callable[[Any], Any]

    def normal(self, shape: Any) -> Tensor:
        """As `NoiseSource`."""
        fresh: Tensor = self.source.normal(shape)
        return torch.as_tensor(self.flaw(fresh.flatten())).view(fresh.shape)

    def uniform(self, n: int) -> Tensor:
        """As `NoiseSource`."""
        return self.source.uniform(n)

    def discrete(self, n: int) -> NDArray[np.int64]:
        """As `NoiseSource`."""
        return np.asarray(self.flaw(self.source.discrete(n)))


def _spared(values: Any) -> Any:
    """None on the last value of every draw: of a weight in every tensor."""
    values[-1] = 0
    return values


def _cancelling(values: Any) -> Any:
    """The second half takes the first one back."""
    half = len(values) // 2
    if half:
        values[-half:] = -values[:half]
    return values


def _of_two_values(values: Any) -> Any:
    """Of the right deviation, and nothing but plus or minus it."""
    values = np.asarray(values)
    found = np.where(values < 0, -1.0, 1.0) * np.sqrt(np.square(values, dtype=np.float64).mean())
    return np.rint(found).astype(values.dtype) if values.dtype.kind == "i" else found


@dataclass(frozen=True)
class ByImage:
    """`private_gradient` or `train_private` for which every image is a patient of its own."""

    release: Callable[..., Any]

    def __call__(self, head: torch.nn.Module, **arguments: Any) -> Any:
        """Release as told, but for who is whose."""
        if "patients" in arguments:
            arguments["patients"] = torch.arange(len(arguments["patients"]))
        if "patients_drawn" in arguments:
            arguments["patients_drawn"] = torch.as_tensor(arguments["patients_drawn"]).reshape(-1, 1)
        return self.release(head, **arguments)


@dataclass(frozen=True)
class Altered:
    """`private_gradient` or `train_private`, called with other arguments than it is told."""

    release: Callable[..., Any]
    factors: tuple[tuple[str, float], ...]

    def __call__(self, head: torch.nn.Module, **arguments: Any) -> Any:
        """Release with the named arguments multiplied, a rate up to 1 and a clip norm that is off staying off."""
        for name, factor in self.factors:
            if name in arguments:
                arguments[name] *= factor
        if "sampling_rate" in arguments:
            arguments["sampling_rate"] = min(1.0, arguments["sampling_rate"])
        return self.release(head, **arguments)


def _altered(scene: Scene, **factors: float) -> Scene:
    named = tuple(factors.items())
    return replace(scene, step=Altered(scene.step, named), trainer=Altered(scene.trainer, named))


def _tenth_of_the_noise(scene: Scene) -> Scene:
    return _altered(scene, noise_multiplier=0.1)


def _unclipped(scene: Scene) -> Scene:
    """Noise of the declared deviation, and nothing that is clipped."""
    return _altered(scene, clip_norm=_FAR, noise_multiplier=1 / _FAR)


def _repeated_noise(scene: Scene) -> Scene:
    return replace(scene, noise=RepeatingNoise(scene.noise_source()))


def _spared_weights(scene: Scene) -> Scene:
    return replace(scene, noise=FlawedNoise(scene.noise_source(), _spared))


def _cancelling_noise(scene: Scene) -> Scene:
    return replace(scene, noise=FlawedNoise(scene.noise_source(), _cancelling))


def _noise_of_two_values(scene: Scene) -> Scene:
    return replace(scene, noise=FlawedNoise(scene.noise_source(), _of_two_values))


def _images_for_patients(scene: Scene) -> Scene:
    return replace(scene, step=ByImage(scene.step), trainer=ByImage(scene.trainer))


def _third_of_epsilon(scene: Scene) -> Scene:
    return _claiming(scene, lambda declared: replace(declared, epsilon=declared.epsilon / 3))


def _composition_forgotten(scene: Scene) -> Scene:
    return _claiming(scene, lambda declared: replace(declared, epsilon=_of_one_step(declared)))


def _half_the_sampling_rate(scene: Scene) -> Scene:
    """Accounted at half the rate that the trainer samples at."""

    def at_half(declared: Declared) -> Declared:
        half = replace(declared, sampling_rate=declared.sampling_rate / 2)
        return replace(half, epsilon=epsilon_of(half.everything(), delta=half.delta))

    return _claiming(_altered(scene, sampling_rate=2.0), at_half)


def _claiming(scene: Scene, change: Callable[[Declared], Declared]) -> Scene:
    assert scene.declared is not None
    return replace(scene, declared=change(scene.declared))


def _of_one_step(declared: Declared) -> float:
    return quick_epsilon(replace(declared, steps=1).everything(), delta=declared.delta)


MUTATIONS: dict[str, Callable[[Scene], Scene]] = {
    "a tenth of the noise": _tenth_of_the_noise,
    "clipping skipped": _unclipped,
    "noise repeated": _repeated_noise,
    "some weights without noise": _spared_weights,
    "noise that cancels": _cancelling_noise,
    "noise of two values": _noise_of_two_values,
    "images taken for patients": _images_for_patients,
    "a third of epsilon claimed": _third_of_epsilon,
    "composition forgotten": _composition_forgotten,
    "half the sampling rate accounted": _half_the_sampling_rate,
}


def mutate(scene: Scene, name: str) -> Scene:
    """`scene` with the defect `name`, one of `MUTATIONS`, in its trainer, step, noise or declared privacy."""
    return MUTATIONS[name](scene)
