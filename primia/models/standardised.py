"""Convolutions with standardised weights (Qiao et al. 2019), which private training likes (De et al. 2022)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

SMALLEST_NORM = 1e-4  # of a centred filter; initial ones are near 1


class StandardisedConvolution(nn.Module):
    """A convolution whose filters are brought to mean 0 and norm 1 before use: g(w) = (w − w̄) / ‖w − w̄‖ per filter.

    It is a plain convolution with the weight `g(w)`, so that a gradient u for g(w) becomes a gradient for w by a linear
    map that depends on no patient: `primia.training.patient_gradients.Standardised`.

    Private training clips what it releases: the gradients for the raw weights w, each patient's after the pull-back.
    Clipping the gradients for g(w) and pulling back the noisy sum would be as sound (post-processing of a private
    release), but then a site's update would carry the noise of J'n instead of n, with a clip norm in other units for
    every filter, and the sum of updates, which is all that travels, would have no sensitivity of its own. With raw
    weights every architecture has one rule: what travels is what was clipped. The price is small, since neither the
    norm nor the sum needs a patient's gradient pulled back.
    """

    weight: Tensor

    def standardised(self) -> Tensor:
        """g(w), in the shape of the weight; a gradient flows through it."""
        centred = self.weight.flatten(1) - self.weight.flatten(1).mean(dim=1, keepdim=True)
        filters: Tensor = functional.normalize(centred, dim=1, eps=SMALLEST_NORM).view_as(self.weight)
        return filters

    @torch.no_grad()
    def directions(self) -> tuple[Tensor, Tensor]:
        """What a gradient is pulled back with: the filters, in the weight's shape, and ‖w − w̄‖, (outputs,).

        A filter below the smallest norm is only scaled: its direction is zero, so that its gradient keeps the part
        along it.
        """
        raw = self.weight.flatten(1)
        lengths = torch.linalg.vector_norm(raw - raw.mean(dim=1, keepdim=True), dim=1)
        wanted = (lengths > SMALLEST_NORM).view(-1, *[1] * (self.weight.dim() - 1))
        return torch.where(wanted, self.standardised(), 0.0), lengths.clamp_min(SMALLEST_NORM)


class StandardisedConv2d(nn.Conv2d, StandardisedConvolution):
    """Of images."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, inputs, h, w) to (n, outputs, h', w')."""
        answer: Tensor = self._conv_forward(maps, self.standardised(), self.bias)
        return answer


class StandardisedConv3d(nn.Conv3d, StandardisedConvolution):
    """Of volumes."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (n, inputs, x, y, z) to (n, outputs, x', y', z')."""
        answer: Tensor = self._conv_forward(maps, self.standardised(), self.bias)
        return answer
