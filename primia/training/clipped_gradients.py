"""The sum of clipped gradients of patients, at the price of one forward and one backward pass over the batch.

Mixed ghost clipping with the backward pass taken once (Bu et al. 2022 and 2023, "book-keeping"): the pass computes the
gradients of the layers' outputs and each patient's norm, and no gradient of a weight; those follow once, with each
patient's scale folded in.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from primia.training.layers import recording_layers
from primia.training.objective import row_losses
from primia.training.patient_gradients import PatientGradients
from primia.training.recording import RecordingLayer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How far below the clip norm gradients are scaled to, so that rounding does not lift them above it.
_SLACK = {"float32": 2.0**-19, "bfloat16": 2.0**-8}


def clipped_sum(
    head: nn.Module,
    *,
    rows: Tensor,
    labels: Tensor,
    clip_norm: float,
    views: int = 1,
    precision: str = "float32",
    loss: str = "cross_entropy",
) -> dict[str, Tensor]:
    """Each patient's gradient of the mean loss of its rows, clipped to an L2 norm over all weights, summed.

    Args:
        head: left as it was; its layers with parameters must be nn.Linear, nn.Conv2d, nn.Conv3d or nn.GroupNorm.
        rows: (patients * views, ...) float32, the views of a patient one after another.
        labels: (patients * views,), or masks (patients * views, *spatial), of integers.
        clip_norm: > 0; may be infinite.
        views: rows of each patient, ≥ 1; their mean gradient is clipped (augmentation multiplicity, De et al. 2022).
        precision: `float32`, or `bfloat16` for mixed precision.
        loss: of each row, see `primia.training.objective.row_losses`.

    Returns:
        By parameter name, float32, in the parameters' shapes. Each patient's contribution is at most `clip_norm` long,
        in either precision. A gradient that is not finite counts as zero.

    Raises:
        PrivacyError: a layer mixes samples, or its gradients cannot be had patient by patient.
    """
    assert clip_norm > 0 and views >= 1 and len(rows) == len(labels) and len(rows) % views == 0
    mixed = precision == "bfloat16"
    anchor = torch.zeros((), requires_grad=True)
    layers = recording_layers(head, views=views, dtype=PRECISIONS[precision], anchor=anchor)
    with _in_place_of_forward(head, layers):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            logits = head(rows).float()
        total_loss = row_losses(logits, labels.long(), loss).sum() / views
        torch.autograd.grad(total_loss, anchor, allow_unused=True)
    recorded = {
        f"{at}.{name}" if at else name: gradients
        for at, layer in layers.items()
        for name, gradients in layer.recorded.items()
    }
    # Without a graph: a running sum of results that had one would keep every patient's gradients alive.
    with torch.no_grad():
        total = clip_and_add(recorded, clip_norm=clip_norm, slack=_SLACK[precision])
        for at, layer in layers.items():
            weight = f"{at}.weight" if at else "weight"
            if weight in total:
                total[weight] = layer.shaped(total[weight])
    return {
        name: total[name] if name in total else torch.zeros_like(parameter, requires_grad=False)
        for name, parameter in head.named_parameters()
    }


def clip_and_add(
    gradients: Mapping[str, PatientGradients], *, clip_norm: float, slack: float = _SLACK["float32"]
) -> dict[str, Tensor]:
    """Scale each patient's gradient to an L2 norm of at most `clip_norm` over all weights, and add them up.

    Args:
        gradients: by parameter name, each of the same patients.
        clip_norm: > 0.
        slack: part of `clip_norm` that is left for rounding.

    Returns:
        By parameter name. A gradient that is not finite counts as zero: it has no norm to clip, and would otherwise
        show in every released coordinate.
    """
    norms = _norms(gradients.values(), torch.ones(1))
    finite = torch.isfinite(norms)
    if not finite.all():
        gradients, norms = {name: each.only(finite) for name, each in gradients.items()}, norms[finite]
    scales = (clip_norm * (1 - slack) / norms.clamp_min(1e-30)).clamp_max(1.0).float()
    # Folding a scale into factors rounds them, to 8 bits in bfloat16, and the sum of their products may come out
    # longer than the scale says. So the norm is taken of the very factors that will be multiplied, and whoever is
    # still too long is halved, which is exact.
    while (too_long := _norms(gradients.values(), scales) > clip_norm).any():
        scales[too_long] /= 2
    return {name: each.weighted_sum(scales) for name, each in gradients.items()}


def _norms(gradients: Iterable[PatientGradients], scales: Tensor) -> Tensor:
    squares = [each.squared_norms(scales) for each in gradients]
    return torch.stack(squares).sum(dim=0).sqrt()


@contextmanager
def _in_place_of_forward(head: nn.Module, layers: Mapping[str, RecordingLayer]) -> Iterator[None]:
    """Let the layers compute what the modules of these names would, until the block ends."""
    modules = [(head.get_submodule(name), layer) for name, layer in layers.items()]
    try:
        for module, layer in modules:
            module.forward = layer
        yield
    finally:
        for module, _ in modules:
            module.__dict__.pop("forward", None)
