"""The layers whose gradients can be had patient by patient."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.errors import PrivacyError
from primia.models.standardised import StandardisedConv2d, StandardisedConv3d
from primia.training.patient_gradients import Standardised, Written
from primia.training.recording import RecordingLayer

_convolution_backward = torch.ops.aten.convolution_backward
_group_norm = torch.ops.aten.native_group_norm
_group_norm_backward = torch.ops.aten.native_group_norm_backward


class _Linear(RecordingLayer):
    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        weight, rows = self.module.weight.detach().to(self.dtype), rows.to(self.dtype)
        return functional.linear(rows, weight, self._bias()), rows, weight

    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        rows, weight = saved
        n, (p, d) = len(rows), weight.shape
        self._record_product(rows.reshape(n, -1, d), gradient.reshape(n, -1, p), inputs_of=lambda rows: rows, d=d)
        return gradient @ weight if rows_too else None


class _Convolution(RecordingLayer):
    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        weight = self._laid_out(self._filters().to(self.dtype))
        rows = self._laid_out(rows.to(self.dtype))
        return torch.convolution(rows, weight, self._bias(), *self._geometry()), rows, weight

    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        rows, weight = saved

        def backward_of(part: slice, wanted: tuple[bool, bool, bool]) -> tuple[Tensor, ...]:
            answer: tuple[Tensor, ...] = _convolution_backward(
                gradient[part], rows[part], weight, None, *self._geometry(), wanted
            )
            return answer

        def product(part: slice) -> Tensor:
            return backward_of(part, (False, True, False))[1].movedim(1, -1).flatten(1)

        outputs = gradient.movedim(1, -1).flatten(1, -2)
        patches = partial(_patches, at=self.module, places=gradient.shape[2:])
        self._record_product(rows, outputs, inputs_of=patches, d=weight[0].numel(), product=product)
        return backward_of(slice(None), (True, False, False))[0] if rows_too else None

    def shaped(self, weight: Tensor) -> Tensor:
        _, c, *sides = self.module.weight.shape
        return weight.view(*weight.shape[:-1], *sides, c).movedim(-1, -1 - len(sides))

    def _filters(self) -> Tensor:
        filters: Tensor = self.module.weight.detach()
        return filters

    def _geometry(self) -> tuple[Any, ...]:
        at = self.module
        return at.stride, at.padding, at.dilation, False, (0,) * len(at.kernel_size), 1


class _StandardisedConvolution(_Convolution):
    """Its filters are a function of the weight, in which the gradients are clipped."""

    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        of_rows = super().backward(gradient, saved, rows_too=rows_too)
        of_filters = self.recorded["weight"]
        assert not isinstance(of_filters, Standardised)
        directions, lengths = self.module.directions()
        as_recorded = directions.movedim(1, -1).flatten(1)
        self.recorded["weight"] = Standardised(of_filters, as_recorded, lengths)
        return of_rows

    def _filters(self) -> Tensor:
        with torch.no_grad():
            filters: Tensor = self.module.standardised()
        return filters


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
        # The batch as one row of n times the channels and groups: what was a sum over rows is now a result for each.
        one, sizes = (1, n * c, -1), (1, n * c, rows[0, 0].numel(), n * at.num_groups)
        of_rows, *of_parameters = _group_norm_backward(
            gradient.contiguous().view(one),
            rows.view(one),
            mean.view(1, -1),
            scale.view(1, -1),
            at.weight.detach().repeat(n),
            *sizes,
            (rows_too, True, True),
        )
        for name, values in zip(("weight", "bias"), of_parameters, strict=True):
            self.recorded[name] = Written(values.view(-1, self.views, c).sum(dim=1))
        return self._laid_out(of_rows.view_as(rows)) if rows_too else None


def _patches(rows: Tensor, *, at: Any, places: torch.Size) -> Tensor:
    """What each place of a convolution's output sees: rows (n, c, *sides) to (n, places, kernel's places * c)."""
    n, c, *sides = rows.shape
    padded = rows.new_zeros(n, *(side + 2 * edge for side, edge in zip(sides, at.padding, strict=True)), c)
    inner = (slice(edge, edge + side) for side, edge in zip(sides, at.padding, strict=True))
    padded[:, *inner] = rows.movedim(1, -1)
    row, *lines, channel = padded.stride()
    to_the_next = [step * line for step, line in zip(at.stride, lines, strict=True)]
    apart = [step * line for step, line in zip(at.dilation, lines, strict=True)]
    strides = (row, *to_the_next, *apart, channel)
    windows = padded.as_strided((n, *places, *at.kernel_size, c), strides)
    return windows.reshape(n, places.numel(), -1)


_KINDS: dict[type[nn.Module], type[RecordingLayer]] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Convolution,
    nn.Conv3d: _Convolution,
    StandardisedConv2d: _StandardisedConvolution,
    StandardisedConv3d: _StandardisedConvolution,
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
        told = f"The layer {name or 'of the whole head'} ({type(module).__name__})"
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
                    "nn.Conv2d or nn.Conv3d with one group and zeros as padding, its width in numbers, or nn.GroupNorm."
                )
            layers[name] = kind(module, views=views, dtype=dtype, anchor=anchor)
    return layers


def _plain(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d | nn.Conv3d):
        return True
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
