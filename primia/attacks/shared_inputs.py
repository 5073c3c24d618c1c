"""What heads see of all images of an attack, computed once by whichever parts need it first, side by side."""

import threading
import weakref

import torch
from torch import Tensor

from primia.attacks.scene import Scene, inputs_of

_BLOCK = 64  # images that one thread takes at a time


class SharedInputs:
    """Inputs of the heads of a released model; who asks for them while they are being computed lends a hand."""

    def __init__(self, scene: Scene, images: Tensor) -> None:
        """`images` are (n, 1, *shape) in [0, 1]."""
        self._model, self._blocks = scene.released, torch.split(images, _BLOCK)
        self._waiting = list(reversed(range(len(self._blocks))))
        self._found: dict[int, Tensor] = {}
        self._joined: Tensor | None = None
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    def all(self) -> Tensor:
        """(n, ...) float32, the same tensor for everybody; not to be changed."""
        while (number := self._next()) is not None:
            try:
                found = inputs_of(self._model, self._blocks[number])
            except BaseException as failure:  # or the others would wait forever
                with self._changed:
                    self._failure = failure
                    self._changed.notify_all()
                raise
            with self._changed:
                self._found[number] = found
                self._changed.notify_all()
        with self._changed:
            self._changed.wait_for(lambda: self._failure or self._joined is not None or self._complete)
            if self._failure:
                raise self._failure
            if self._joined is None:
                self._joined = torch.cat([self._found.pop(number) for number in range(len(self._blocks))])
            return self._joined

    @property
    def _complete(self) -> bool:
        return len(self._found) == len(self._blocks)

    def _next(self) -> int | None:
        with self._changed:
            return self._waiting.pop() if self._waiting and not self._failure else None


def shared_inputs(scene: Scene, images: Tensor) -> SharedInputs:
    """Those of a scene, whose parts all give the same `images`; kept until another scene asks, or this one is gone."""
    with _LOCK:
        for kept, inputs in _KEPT:
            if kept() is scene:
                return inputs
        inputs = SharedInputs(scene, images)
        _KEPT[:] = [(weakref.ref(scene), inputs)]
        return inputs


_LOCK = threading.Lock()
_KEPT: list[tuple[weakref.ref[Scene], SharedInputs]] = []
