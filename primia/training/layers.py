"""The layers whose gradients can be had patient by patient; each takes its own step of the backward pass."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.errors import PrivacyError
from primia.training.patient_gradients import AT_A_TIME, Factored, PatientGradients, Written, better_factored

_convolution_backward = torch.ops.aten.convolution_backward
_group_norm = torch.ops.aten.native_group_norm
_group_norm_backward = torch.ops.aten.native_group_norm_backward


class RecordingLayer(ABC):
    """Takes the place of a module's forward; its backward pass records gradients and adds up none of them.

    Consecutive rows of a batch, `views` at a time, belong to one patient, whose gradient is the sum over them. After
    the backward pass, `recorded` holds the gradients by the parameter's name in the module.
    """

    def __init__(self, module: nn.Module, *, views: int, dtype: torch.dtype, anchor: Tensor) -> None:
        self.module: Any = module
        self.views, self.dtype = views, dtype
        self.recorded: dict[str, PatientGradients] = {}
        self._anchor = anchor
        self._called = False

    def __call__(self, rows: Tensor) -> Tensor:
        """The module's output for rows (n, ...).

        Raises:
            PrivacyError: the module takes part twice, so that its gradients would have to be added before clipping.
        """
        if self._called:
            raise PrivacyError(
                f"A layer of the kind {type(self.module).__name__} is used twice in one pass, and its gradient is "
                "clipped only once; give each use a layer of its own."
            )
        self._called = True
        return cast(Tensor, _Step.apply(rows, self._anchor, self))

    @abstractmethod
    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The module's output, followed by what `backward` needs."""

    @abstractmethod
    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        """Record the gradients of the parameters, and return that of the rows if it is wanted."""

    def shaped(self, total: Tensor) -> Tensor:
        """A sum of recorded gradients of the weight in the weight's own shape."""
        return total

    def _laid_out(self, rows: Tensor) -> Tensor:
        """In bfloat16, channels last: several times faster for convolutions and pooling."""
        mixed = self.dtype == torch.bfloat16 and rows.dim() == 4
        return rows.contiguous(memory_format=torch.channels_last) if mixed else rows

    def _record_product(self, rows: Tensor, outputs: Tensor, *, inputs_of: Callable[[Tensor], Tensor], d: int) -> None:
        """A weight, and a bias where there is one, at gradients of outputs (n, t, p) and inputs_of(rows), (n, t, d)."""
        n, t, p = outputs.shape
        patients, t = n // self.views, t * self.views
        outputs = outputs.reshape(patients, t, p)
        if self.module.bias is not None:
            self.recorded["bias"] = Written(outputs.sum(dim=1, dtype=torch.float32))
        if better_factored(t, d, p):
            inputs = inputs_of(rows.float()).reshape(patients, t, d)
            self.recorded["weight"] = Factored(inputs, outputs.float(), rounded=self.dtype == torch.bfloat16)
            return
        values = outputs.new_empty(patients, p, d)
        some = max(1, AT_A_TIME // (t * d))
        for first in range(0, patients, some):
            part = slice(first, first + some)
            inputs = inputs_of(rows[first * self.views : (first + some) * self.views]).reshape(-1, t, d)
            torch.bmm(outputs[part].mT, inputs, out=values[part])
        self.recorded["weight"] = Written(values)


class _Step(torch.autograd.Function):
    """A layer's step of the forward and the backward pass."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, anchor: Tensor, layer: RecordingLayer) -> Tensor:
        output, *saved = layer.forward(rows)
        ctx.layer = layer
        ctx.save_for_backward(*saved)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:  # type: ignore[override]
        layer: RecordingLayer = ctx.layer
        return layer.backward(gradient, ctx.saved_tensors, rows_too=ctx.needs_input_grad[0]), None, None


class _Linear(RecordingLayer):
    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        weight, bias = _cast(self.module, self.dtype)
        rows = rows.to(self.dtype)
        return functional.linear(rows, weight, bias), rows, weight

    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        rows, weight = saved
        n, (p, d) = len(rows), weight.shape
        self._record_product(rows.reshape(n, -1, d), gradient.reshape(n, -1, p), inputs_of=lambda rows: rows, d=d)
        return gradient @ weight if rows_too else None


class _Convolution(RecordingLayer):
    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        weight, bias = _cast(self.module, self.dtype)
        weight, rows = self._laid_out(weight), self._laid_out(rows.to(self.dtype))
        at = self.module
        return functional.conv2d(rows, weight, bias, at.stride, at.padding, at.dilation), rows, weight

    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        rows, weight = saved
        at = self.module
        outputs = gradient.permute(0, 2, 3, 1).flatten(1, 2)
        patches = partial(_patches, at=at, places=gradient.shape[2:])
        self._record_product(rows, outputs, inputs_of=patches, d=weight[0].numel())
        if not rows_too:
            return None
        geometry = (at.stride, at.padding, at.dilation, False, (0, 0), 1)
        wanted = (True, False, False)
        return cast(Tensor, _convolution_backward(gradient, rows, weight, None, *geometry, wanted)[0])

    def shaped(self, total: Tensor) -> Tensor:
        p, c, high, wide = self.module.weight.shape
        return total.view(p, high, wide, c).permute(0, 3, 1, 2)


class _GroupNorm(RecordingLayer):
    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        at, (n, c) = self.module, rows.shape[:2]
        # With channels last, this operation of PyTorch takes several times as long as copying to and fro.
        rows = rows.contiguous()
        sizes = (n, c, rows[0, 0].numel(), at.num_groups, at.eps)
        output, mean, scale = _group_norm(rows, at.weight.detach(), at.bias.detach(), *sizes)
        return self._laid_out(output), rows, mean, scale

    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        at, (rows, mean, scale) = self.module, saved
        n, c = rows.shape[:2]
        # All rows as one row of n times the channels and groups: what was a sum over rows is now a result for each.
        one, size = (1, n * c, -1), rows[0, 0].numel()
        of_rows, of_weight, of_bias = _group_norm_backward(
            gradient.contiguous().view(one),
            rows.view(one),
            mean.view(1, -1),
            scale.view(1, -1),
            at.weight.detach().repeat(n),
            1,
            n * c,
            size,
            n * at.num_groups,
            (rows_too, True, True),
        )
        for name, value in (("weight", of_weight), ("bias", of_bias)):
            self.recorded[name] = Written(value.view(-1, self.views, c).sum(dim=1))
        return self._laid_out(of_rows.view_as(rows)) if rows_too else None


def _cast(module: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    bias = None if module.bias is None else module.bias.detach().to(dtype)
    return module.weight.detach().to(dtype), bias


def _patches(rows: Tensor, *, at: Any, places: torch.Size) -> Tensor:
    """What each place of a convolution's output sees: rows (n, c, h, w) to (n, places, kernel height * width * c)."""
    n, c, high, wide = rows.shape
    (above, left), (down, right), (apart, aside) = at.padding, at.stride, at.dilation
    padded = rows.new_zeros(n, high + 2 * above, wide + 2 * left, c)
    padded[:, above : above + high, left : left + wide] = rows.permute(0, 2, 3, 1)
    row, line, column, channel = padded.stride()
    strides = (row, down * line, right * column, apart * line, aside * column, channel)
    windows = padded.as_strided((n, *places, *at.kernel_size, c), strides)
    return windows.reshape(n, places.numel(), -1)


_KINDS: dict[type[nn.Module], type[RecordingLayer]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Convolution,
    nn.GroupNorm: _GroupNorm,
}


def recording_layers(head: nn.Module, *, views: int, dtype: torch.dtype, anchor: Tensor) -> dict[str, RecordingLayer]:
    """A recording layer for each module of `head` that has parameters, by the module's name.

    Args:
        head: left as it is.
        views: rows of each patient.
        dtype: that convolutions and linear layers compute in, float32 or bfloat16.
        anchor: a scalar that requires a gradient; asking for it runs the backward pass down to the first layer.

    Raises:
        PrivacyError: a module mixes the samples of a batch, has parameters that no recording layer knows, or shares
            them with another module.
    """
    layers: dict[str, RecordingLayer] = {}
    owners: dict[Tensor, str] = {}
    for name, module in head.named_modules():
        told = f"The layer {name or 'itself'} ({type(module).__name__})"
        mixes = isinstance(module, nn.modules.batchnorm._NormBase) and (
            module.track_running_stats or isinstance(module, nn.modules.batchnorm._BatchNorm)
        )
        if mixes:
            raise PrivacyError(
                f"{told} mixes the samples of a batch, so no patient's gradient can be clipped on its own; "
                "put nn.GroupNorm in its place."
            )
        for parameter in module.parameters(recurse=False):
            if owners.setdefault(parameter, name) != name:
                raise PrivacyError(
                    f"{told} shares a parameter with the layer {owners[parameter]}, and gradients are clipped per "
                    "layer; give each layer parameters of its own."
                )
        if any(True for _ in module.parameters(recurse=False)):
            kind = _KINDS.get(type(module))
            if kind is None or not _plain(module):
                raise PrivacyError(
                    f"{told} has parameters whose gradient cannot be had patient by patient; use nn.Linear, "
                    "nn.Conv2d with zero padding in numbers and one group, or nn.GroupNorm."
                )
            layers[name] = kind(module, views=views, dtype=dtype, anchor=anchor)
    return layers


def _plain(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d):
        return True
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
