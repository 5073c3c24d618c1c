"""Canaries: patients made to be found, each with a gradient of full length in coordinates that nobody else touches."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from primia.attacks.noise_record import NoiseRecord
from primia.attacks.scene import Declared, Scene, weights_of

_WRONG = 20.0  # by how many logits a canary is taken for the wrong class
_DRIFT = 3.0  # by how many of them training may bring it to its senses
_UNCLIPPED = 4.0  # clip norms that a canary's gradient has before it is clipped
_TAIL = 8.0  # deviations of the noise that the drift makes room for
IMAGES = 3  # of each canary, who is one patient all the same


class CanaryPort(nn.Module):
    """A head with an entrance of its own for canaries: a linear layer without bias, zero at first.

    A row is the number of a canary. It becomes a large one-hot vector that goes through the port alone, so that its
    gradient lies in one column of the port and is zero in all weights of `head`, which are clipped, noised and
    released with it (the Dirac canaries of Nasr et al. 2023). The logits stand so far on the side of the wrong class
    that a canary's gradient keeps its length and its direction, `DIRECTION` over the first two classes, however often
    it was trained on.
    """

    DIRECTION = (-(0.5**0.5), 0.5**0.5)

    def __init__(self, head: nn.Module, *, canaries: int, classes: int, amplitude: float) -> None:
        super().__init__()
        self.head = head
        self.amplitude = amplitude
        self.port = nn.Linear(canaries, classes, bias=False)
        nn.init.zeros_(self.port.weight)
        self.wrong: Tensor
        self.register_buffer("wrong", torch.zeros(classes).index_fill(0, torch.tensor(1), _WRONG))

    def forward(self, rows: Tensor) -> Tensor:
        """Logits (n, classes) of canaries (n, 1), float32 as everything that a trainer is given."""
        entrance = rows.new_zeros(len(rows), self.port.in_features).scatter(1, rows.long(), self.amplitude)
        logits: Tensor = self.port(entrance) + self.wrong
        return logits


@dataclass(frozen=True)
class Transcript:
    """What an attacker reads off the weights before and after every call of the trainer.

    Attributes:
        scores: how long each canary's gradient was, summed over a call's steps, (calls, canaries) float64; 1 is one
            step at full length.
        noise: what the calls show of weights that no canary touches.
    """

    scores: Tensor
    noise: NoiseRecord


def observe(
    scene: Scene,
    head: nn.Module,
    *,
    classes: int,
    terms: Declared,
    coins: Tensor,
    calls: Sequence[int],
    on_call: Callable[[int], None] = lambda done: None,
) -> Transcript:
    """Train on the canaries that fell heads, as a site trains, and read the transcript.

    No real patient takes part: the strongest attacker knows what they add and subtracts it. One more canary always
    does, which the attacker knows, so that the trainer never lacks a patient. Each has several images: a trainer that
    took images for patients would let a canary count that often.

    Args:
        scene: whose trainer and noise.
        head: trained in place.
        classes: at least 2.
        terms: under which the trainer is called; noise and clipping may be off.
        coins: who takes part, (canaries,) bool.
        calls: steps of each call of the trainer, one after the other from where the last one ended.
        on_call: called with the steps done.
    """
    canaries, clipped, noise = len(coins), math.isfinite(terms.clip_norm), scene.noise_source()
    # A power of two, which bfloat16 holds exactly.
    amplitude = 2.0 ** math.ceil(math.log2(terms.clip_norm * _UNCLIPPED * 0.5**0.5)) if clipped else 1.0
    length = terms.clip_norm if clipped else amplitude * 2**0.5
    steps = sum(calls)
    reach = length * (steps + _TAIL * terms.noise_seen * math.sqrt(steps))
    # Privacy does not depend on the learning rate, and what is observed is the change over the learning rate.
    rate = _DRIFT / (2**0.5 * amplitude * reach)

    ported = CanaryPort(head, canaries=canaries + 1, classes=classes, amplitude=amplitude)
    noise_seen = terms.noise_seen
    if scene.noise_with is not None and scene.declared is not None:  # the port is part of what the noise is shared for
        parameters = sum(weight.numel() for weight in ported.parameters())
        noise_seen *= scene.noise_with(parameters) / scene.declared.noise_seen
    present = torch.cat([coins, torch.tensor([True])])
    numbers = present.nonzero()[:, 0].repeat_interleave(IMAGES)
    scores, record = [], NoiseRecord(releases=len(calls))
    for done, count in enumerate(calls):
        before = weights_of(ported)
        scene.trainer(
            ported,
            inputs=numbers[:, None].float(),
            labels=torch.zeros(len(numbers), dtype=torch.int64),
            patients=numbers,
            clip_norm=terms.clip_norm,
            noise_multiplier=terms.noise_multiplier,
            sampling_rate=terms.sampling_rate,
            expected_batch=terms.expected_batch,
            steps=count,
            learning_rate=rate * terms.expected_batch,
            noise=noise,
            precision=scene.training.precision,
            views=terms.views,
        )
        change = {name: (before[name] - weight) / rate for name, weight in weights_of(ported).items()}
        port = change.pop("port.weight").double()  # (classes, canaries + 1)
        scores.append(torch.tensor(CanaryPort.DIRECTION, dtype=torch.float64) @ port[:2, :canaries] / length)
        if noise_seen > 0:
            deviation = length * noise_seen * math.sqrt(count)
            untouched = {"port": port[:, ~present], **change}
            record.add({name: value / deviation for name, value in untouched.items()})
        on_call(sum(calls[: done + 1]))
    return Transcript(torch.stack(scores), record)
