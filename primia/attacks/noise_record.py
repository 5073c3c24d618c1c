"""What releases carry where no patient is: whether it is independent Gaussian noise of one size on every weight.

A pooled deviation would miss a single tensor without noise, and a comparison between releases would miss noise that
cancels within each of them; an attacker who knows the code misses neither.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from primia.attacks.contract import Check

FALSE_ALARM = 1e-7  # chance of an honest release to be outside one check's range
ROUNDING = 1e-3  # of what is observed as a difference of float32 weights
_KEPT = 2**22  # values that are compared between releases, at most
_KEPT_PER_RELEASE = 2**14
_FIRST = 2**10  # values of a tensor that are compared with the largest one's
SKEW = 1.5  # standard errors by which sums of a few hundred products of Gaussians exceed a normal distribution's tail


class NoiseRecord:
    """Noise of several releases, in declared deviations: the same weights in the same order every time.

    Nothing is kept of a release but its sums and a thinned copy.
    """

    def __init__(self, *, releases: int) -> None:
        """`releases` is how many there will be."""
        self._kept_each = min(_KEPT_PER_RELEASE, max(1, _KEPT // releases))
        self._squares: dict[str, Tensor] = {}  # of each coordinate, summed over the releases
        self._shifted = self._mirrored = torch.zeros(0, dtype=torch.float64)
        self._bare: list[Tensor] = []
        self._alike: dict[str, float] = {}  # products of a tensor's first values with those of the largest, summed
        self._compared: dict[str, int] = {}

    @property
    def releases(self) -> int:
        """How many were added."""
        return len(self._bare)

    def add(self, noise: Mapping[str, Tensor]) -> None:
        """Take up one release: by tensor's name, in declared deviations."""
        for name, values in noise.items():
            squares = values.double().flatten().square()
            self._squares[name] = squares if name not in self._squares else self._squares[name].add_(squares)
        whole = torch.cat([values.double().flatten() for values in noise.values()])
        largest = max(noise, key=lambda name: noise[name].numel())
        for name in noise.keys() - {largest}:
            count = min(_FIRST, noise[name].numel())
            first, other = (noise[each].double().flatten()[:count] for each in (name, largest))
            self._alike[name] = self._alike.get(name, 0.0) + float(first @ other)
            self._compared[name] = self._compared.get(name, 0) + count
        spectrum = torch.fft.rfft(whole)
        # In standard errors of independent noise of the size that was found: shifted copies of itself, and the
        # same read backwards, in which every pair counts twice.
        unit = float(whole.square().mean()) * len(whole) ** 0.5 or 1.0
        shifted = torch.fft.irfft(spectrum.abs().square(), n=len(whole))[1 : len(whole) // 2 + 1] / unit
        mirrored = torch.fft.irfft(spectrum.square(), n=len(whole)) / (2**0.5 * unit)
        self._shifted = shifted if not self.releases else self._shifted + shifted
        self._mirrored = mirrored if not self.releases else self._mirrored + mirrored
        self._bare.append(whole[:: math.ceil(len(whole) / self._kept_each)].clone())

    def checks(self) -> tuple[Check, ...]:
        """Its size as a whole, on every tensor and weight, its shape, and its independence within and between them."""
        coordinates = torch.cat(list(self._squares.values()))
        found = [
            size_check("noise", [float(coordinates.sum())], [len(coordinates) * self.releases], "the release"),
            size_check(
                "noise_of_tensors",
                [float(squares.sum()) for squares in self._squares.values()],
                [len(squares) * self.releases for squares in self._squares.values()],
                "a tensor of the release",
            ),
            weights_check(coordinates, releases=self.releases),
            shape_check(torch.cat(self._bare)),
            self._within(),
        ]
        if self._alike:
            found.append(self._between_tensors())
        if self.releases > 1:
            found.append(repetition_check(torch.stack(self._bare)))
        return tuple(found)

    def _between_tensors(self) -> Check:
        """Largest correlation of a tensor's first values with those of the largest tensor.

        A stream that begins anew with every tensor repeats itself there; a bias is too short to show elsewhere.
        """
        from scipy.stats import norm

        value = max(abs(alike) / self._compared[name] ** 0.5 for name, alike in self._alike.items())
        return Check(
            name="noise_between_tensors",
            value=value,
            low=0.0,
            high=float(norm.isf(FALSE_ALARM / 2 / len(self._alike))) + SKEW,
            broken=f"The first values of two tensors agree by {value:.3g} standard errors: they carry the same noise, "
            "so that their difference shows what it should hide.",
        )

    def _within(self) -> Check:
        """Largest correlation of the noise of one release with a shifted or mirrored copy of itself."""
        from scipy.stats import norm

        every = torch.cat([self._shifted, self._mirrored]).abs() / self.releases**0.5
        value = float(every.max())
        return Check(
            name="noise_within",
            value=value,
            low=0.0,
            high=float(norm.isf(FALSE_ALARM / 2 / len(every))) + SKEW,
            broken=f"Parts of one release's noise agree by {value:.3g} standard errors: they are the same noise, so "
            "that their difference, or their sum, shows what it should hide.",
        )


def size_check(name: str, squares: Sequence[float], counts: Sequence[int], where: str) -> Check:
    """Deviation of the noise in declared ones, of the part that is furthest off: an exact χ² range.

    Args:
        name: of the check.
        squares: sum of the squares of each part, in declared variances.
        counts: values in each part.
        where: what a part is, for the reason.
    """
    from scipy.stats import chi2

    worst, ranges = 0, []
    strange = 2.0
    for place, (square, count) in enumerate(zip(squares, counts, strict=True)):
        alarm = FALSE_ALARM / 2 / len(squares)
        low, high = (chi2.ppf([alarm, 1 - alarm], count) / count) ** 0.5
        ranges.append((float(low) - ROUNDING, float(high) + ROUNDING))
        tail = float(min(chi2.cdf(square, count), chi2.sf(square, count)))
        if tail < strange:
            worst, strange = place, tail
    value, (low, high) = math.sqrt(squares[worst] / counts[worst]), ranges[worst]
    return Check(
        name=name,
        value=value,
        low=max(low, 0.0),
        high=high,
        broken=f"Where no patient is, {where} carries {value:.3g} times the declared noise: "
        "noise is missing, repeated or not the accounted one.",
    )


def weights_check(squares: Tensor, *, releases: int) -> Check:
    """Deviation of the noise on the weight that has least of it; squares are sums over releases, (weights,)."""
    from scipy.stats import chi2

    alarm = FALSE_ALARM / 2 / len(squares)
    low, high = (float((chi2.ppf(end, releases) / releases) ** 0.5) for end in (alarm, 1 - alarm))
    value = math.sqrt(float(squares.min()) / releases)
    return Check(
        name="noise_of_weights",
        value=value,
        # Rounded to a grid a millionth as fine, noise is nowhere exactly zero in every release.
        low=max(low - ROUNDING, 1e-12),
        high=high + ROUNDING,
        broken=f"One weight carries {value:.3g} times the declared noise over {releases} releases: "
        "it shows what the others hide.",
    )


def shape_check(bare: Tensor) -> Check:
    """Largest distance of the distribution from a normal one of the same deviation (Kolmogorov-Smirnov); bare is flat.

    Noise of the right deviation may still take few values, which who knows the candidates tells from its sums.
    """
    from scipy.stats import kstest, kstwo

    deviation = float(bare.square().mean().sqrt())
    value = float(kstest((bare / deviation).numpy(), "norm").statistic) if deviation else 1.0
    return Check(
        name="noise_shape",
        value=value,
        low=0.0,
        # The deviation being that of the values themselves, the distance is rather smaller than for a known one.
        high=float(kstwo.isf(FALSE_ALARM, len(bare))) + ROUNDING,
        broken=f"The noise is {value:.3g} away from a normal distribution: it is not the noise that was accounted.",
    )


def repetition_check(bare: Tensor) -> Check:
    """Largest correlation, by size, of the noise of two releases; bare is (releases, kept), at least two."""
    from scipy.stats import norm

    calls, kept = bare.shape
    unit = bare / bare.norm(dim=1, keepdim=True)
    value = float((unit @ unit.T).abs().triu(diagonal=1).max())
    pairs = calls * (calls - 1) // 2
    return Check(
        name="repetition",
        value=value,
        low=0.0,
        high=float(norm.isf(FALSE_ALARM / 2 / pairs)) / math.sqrt(kept),
        broken=f"The noise of two releases has a correlation of {value:.3g}: the same noise is used again, "
        "so the difference of two releases shows what it should hide.",
    )
