"""How like two images are: to tell patients apart, and for people who read a report."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5  # of SSIM (Wang et al. 2004)


@dataclass(frozen=True)
class Likeness:
    """Correlation of what is particular to images: brightness and the average image are taken out of both.

    Chest images are alike, and an attacker who finds the average has found nobody. `average` is (1, p, p), of patients
    whom nobody looks for.
    """

    average: Tensor

    def between(self, found: Tensor, images: Tensor) -> Tensor:
        """Partial correlation of (n, 1, p, p) with (m, 1, p, p); (n, m) in [-1, 1], 0 where nothing is particular."""
        return self._particular(found) @ self._particular(images).T

    def _particular(self, images: Tensor) -> Tensor:
        flat = images.flatten(1).double()
        common = torch.stack([torch.ones(flat.shape[1], dtype=torch.float64), self.average.flatten().double()], dim=1)
        basis, _ = torch.linalg.qr(common)
        rest = flat - (flat @ basis) @ basis.T
        particular: Tensor = rest / rest.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return particular


def psnr(found: Tensor, images: Tensor) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio in dB of images (n, 1, p, p) in [0, 1]; (n,), at most 100."""
    errors = (found.double() - images.double()).square().flatten(1).mean(dim=1)
    return np.asarray(-10 * torch.log10(errors.clamp_min(1e-10)))


def ssim(found: Tensor, images: Tensor) -> NDArray[np.float64]:
    """Structural similarity of images or volumes (n, 1, *shape) in [0, 1] with a Gaussian window of σ 1.5; (n,)."""
    from skimage.metrics import structural_similarity

    side = min(images.shape[2:])  # a volume may have fewer slices than the window
    return np.array(
        [
            structural_similarity(
                one[0].double().numpy(),
                other[0].double().numpy(),
                data_range=1.0,
                gaussian_weights=True,
                sigma=_SIGMA,
                win_size=min(_WINDOW, side - (side + 1) % 2),
                use_sample_covariance=False,
            )
            for one, other in zip(found, images, strict=True)
        ]
    )


def summary(values: NDArray[np.float64], *, seed: int, resamples: int = 1000) -> dict[str, float]:
    """Median, best, and the mean with its 95 % bootstrap interval, of one value for each patient, (patients,)."""
    generator = np.random.default_rng(seed)
    means = values[generator.integers(len(values), size=(resamples, len(values)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return {
        "median": float(np.median(values)),
        "best": float(values.max()),
        "mean": float(values.mean()),
        "low": float(low),
        "high": float(high),
    }
