"""The clipped sum of per-sample gradients as Opacus computes it, in each of its modes."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from primia.training.objective import row_losses

MODES = ("hooks", "functorch", "ghost")


def opacus_gradient(
    mode: str, head: nn.Module, *, rows: Tensor, labels: Tensor, clip_norm: float, bfloat16: bool
) -> Callable[[], dict[str, Tensor]]:
    """A function that computes Opacus' clipped sum of the cross-entropy's gradients on a copy of `head`.

    Args:
        mode: of MODES: per-sample gradients from hooks with Opacus' own rules, or from functorch, or ghost clipping
            with its two backward passes.
        head: in the memory format to measure, like `rows`.
        rows: (n, ...) float32.
        labels: (n,) int64, or masks.
        clip_norm: > 0.
        bfloat16: compute under autocast.
    """
    head = copy.deepcopy(head).train()
    parameters: dict[str, Any] = dict(head.named_parameters())

    def losses(model: nn.Module) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logits = model(rows).float()
        return row_losses(logits, labels, "cross_entropy")

    if mode == "ghost":
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        ghost = GradSampleModuleFastGradientClipping(
            head, loss_reduction="sum", max_grad_norm=clip_norm, use_ghost_clipping=True
        )

        def both_passes() -> dict[str, Tensor]:
            ghost.enable_hooks()
            each = losses(ghost)
            each.sum().backward(retain_graph=True)
            scales = ghost.get_clipping_coef()
            head.zero_grad()
            ghost.disable_hooks()
            (scales * each).sum().backward()
            gradient = {name: parameter.grad for name, parameter in parameters.items()}
            head.zero_grad()
            return gradient

        return _quiet(both_passes)

    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    sampled = GradSampleModule(head, loss_reduction="sum", force_functorch=mode == "functorch")
    optimizer = DPOptimizer(
        torch.optim.SGD(head.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=clip_norm,
        expected_batch_size=None,
        loss_reduction="sum",
    )

    def one_pass() -> dict[str, Tensor]:
        losses(sampled).sum().backward()
        optimizer.clip_and_accumulate()
        gradient = {name: parameter.summed_grad for name, parameter in parameters.items()}
        optimizer.zero_grad()
        return gradient

    return _quiet(one_pass)


def _quiet(compute: Callable[[], dict[str, Tensor]]) -> Callable[[], dict[str, Tensor]]:
    def quietly() -> dict[str, Tensor]:
        with warnings.catch_warnings():
            # The first layer's input is data; it needs no gradient, and Opacus does not use one.
            warnings.filterwarnings("ignore", message="Full backward hook is firing when gradients are computed")
            return compute()

    return quietly
