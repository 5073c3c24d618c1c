"""One layer's step of the forward and the backward pass, with the gradients of its parameters patient by patient."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from primia.errors import PrivacyError
from primia.training.patient_gradients import AT_A_TIME, Factored, PatientGradients, Written, better_factored

# From so many places of a patient's maps on, laying out what each sees takes longer than calling PyTorch per patient.
_MANY_PLACES = 1024


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
        return cast(Tensor, _Step.apply(rows, self._anchor, self))  # type: ignore[no-untyped-call]

    @abstractmethod
    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The module's output, followed by what `backward` needs."""

    @abstractmethod
    def backward(self, gradient: Tensor, saved: tuple[Tensor, ...], *, rows_too: bool) -> Tensor | None:
        """Record the gradients of the parameters, and return that of the rows if it is wanted."""

    def shaped(self, weight: Tensor) -> Tensor:
        """A sum of recorded gradients of the weight, in the weight's own shape."""
        return weight

    def _bias(self) -> Tensor | None:
        return None if self.module.bias is None else self.module.bias.detach().to(self.dtype)

    def _laid_out(self, rows: Tensor) -> Tensor:
        """In bfloat16, channels last: several times faster for convolutions and pooling."""
        mixed = self.dtype == torch.bfloat16 and rows.dim() == 4
        return rows.contiguous(memory_format=torch.channels_last) if mixed else rows

    def _record_product(
        self,
        rows: Tensor,
        outputs: Tensor,
        *,
        inputs_of: Callable[[Tensor], Tensor],
        d: int,
        product: Callable[[slice], Tensor] | None = None,
    ) -> None:
        """A weight, and a bias where there is one, at gradients of outputs (n, t, p) and inputs_of(rows), (n, t, d).

        `product` is a layer's own way to the sum of outputsᵀ·inputs over some rows, (p, d), which lays out no inputs.
        """
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
        if product is not None and t >= _MANY_PLACES:
            for patient in range(patients):
                values[patient] = product(slice(patient * self.views, (patient + 1) * self.views))
        else:
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        layer: RecordingLayer = ctx.layer
        return layer.backward(gradient, ctx.saved_tensors, rows_too=ctx.needs_input_grad[0]), None, None
