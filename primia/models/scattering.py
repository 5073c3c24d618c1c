"""Two-order wavelet scattering of images: a fixed, translation-tolerant front that costs no privacy budget."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from primia.errors import ConfigError

SCALES = 3
ANGLES = 8
CHANNELS = 1 + SCALES * ANGLES + SCALES * (SCALES - 1) // 2 * ANGLES**2  # 217
STRIDE = 2**SCALES
_CHUNK = 2  # images at a time: their intermediate maps stay in the processor's cache


def morlet(size: int, *, scale: int, angle: float) -> Tensor:
    """Morlet wavelet of dyadic scale `scale` and direction `angle`, periodic on a size x size grid.

    A plane wave of frequency 3π/4·2^-scale under a Gaussian of σ = 0.8·2^scale, twice as long across the wave as
    along it, minus the multiple of that Gaussian which makes the mean zero (Bruna & Mallat 2013, section 2.1).

    Returns:
        (size, size) complex128, origin at index (0, 0).
    """
    sigma, frequency, slant = 0.8 * 2**scale, 0.75 * math.pi / 2**scale, 4 / ANGLES
    rows, columns = _periodic_grid(size)
    along = rows * math.cos(angle) + columns * math.sin(angle)
    across = columns * math.cos(angle) - rows * math.sin(angle)
    envelope = torch.exp(-(along**2 + (slant * across) ** 2) / (2 * sigma**2)) * slant / (2 * math.pi * sigma**2)
    wave = (envelope * torch.exp(1j * frequency * along)).sum(dim=(0, 1))
    envelope = envelope.sum(dim=(0, 1))
    wavelet: Tensor = wave - envelope * (wave.sum() / envelope.sum())
    return wavelet


def gaussian(size: int, *, scale: int) -> Tensor:
    """Periodic Gaussian of σ = 0.8·2^(scale-1) and sum one: (size,) float64; its outer square is the low-pass."""
    sigma = 0.8 * 2 ** (scale - 1)
    position = torch.arange(size, dtype=torch.float64)
    position = torch.minimum(position, size - position)
    bell = torch.exp(-(position**2) / (2 * sigma**2))
    return bell / bell.sum()


def _periodic_grid(size: int) -> tuple[Tensor, Tensor]:
    """Row and column offsets of every grid point in the nine nearest periods: (3, 3, size, size) each."""
    offsets = torch.arange(size, dtype=torch.float64)
    offsets = torch.where(offsets >= size / 2, offsets - size, offsets)
    periods = size * torch.arange(-1, 2, dtype=torch.float64)
    rows = offsets[:, None] + periods[:, None, None, None]
    columns = offsets[None, :] + periods[None, :, None, None]
    shape = (3, 3, size, size)
    return rows.expand(shape), columns.expand(shape)


class Scattering(nn.Module):
    """Wavelet scattering with three scales and eight directions: S0, S1 and S2 of Bruna & Mallat 2013.

    Maps images (n, 1, p, p) to (n, 217, p/8, p/8). Channel 0 is the local mean; channels 1 to 24 hold
    |x ∗ ψ(j, l)| ∗ φ in order of scale j and direction l; the other 192 hold ||x ∗ ψ(j, l)| ∗ ψ(k, m)| ∗ φ, k > j,
    in order of j, l, k, m. Images are mirrored by 8 pixels at each border. Every map is kept at the resolution of
    its wavelet (stride 2^j), reached by adding the aliases in the Fourier domain. The Gaussian low-pass φ is separable
    and evaluated at stride 8 only, as one small matrix from either side, which is cheaper than two more transforms.

    Raises:
        ConfigError: `pixels` is below 16 or no multiple of 8.
    """

    def __init__(self, pixels: int) -> None:
        super().__init__()
        if pixels < 16 or pixels % STRIDE:
            raise ConfigError(
                f"preprocess.pixels is {pixels}, but the scattering network needs a multiple of {STRIDE} from 16 on; "
                f"choose {max(16, round(pixels / STRIDE) * STRIDE)} or another architecture."
            )
        self.pixels = pixels
        size = pixels + 2 * STRIDE
        first = [_filters(size, scale=j, resolution=0) for j in range(SCALES)]
        second = {(j, k): _filters(size, scale=k, resolution=j) for k in range(SCALES) for j in range(k)}
        for j, bank in enumerate(first):
            self.register_buffer(f"wavelets_{j}", bank, persistent=False)
            self.register_buffer(f"low_pass_{j}", _low_pass(pixels, resolution=j), persistent=False)
        for (j, k), bank in second.items():
            self.register_buffer(f"wavelets_{j}_{k}", bank, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Scatter images (n, 1, p, p) of any float type: (n, 217, p/8, p/8) float32."""
        assert images.shape[1:] == (1, self.pixels, self.pixels), tuple(images.shape)
        side = self.pixels // STRIDE
        out = torch.empty(len(images), CHANNELS, side, side, device=images.device)
        # With a graph only for whoever asks for it: an attacker who looks for an image.
        with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
            for start in range(0, len(images), _CHUNK):
                self._scatter(images[start : start + _CHUNK].float(), out[start : start + _CHUNK])
        return out

    def _scatter(self, images: Tensor, out: Tensor) -> None:
        padded = functional.pad(images, (STRIDE,) * 4, mode="reflect")
        out[:, :1] = self._averaged(padded, 0)
        spectrum = torch.fft.fft2(padded)
        channel = 1 + SCALES * ANGLES
        for j in range(SCALES):
            moduli = _moduli(spectrum, self._buffer(f"wavelets_{j}"))  # (n, 8, size / 2^j, size / 2^j)
            out[:, 1 + j * ANGLES : 1 + (j + 1) * ANGLES] = self._averaged(moduli, j)
            finer = list(range(j + 1, SCALES))
            if not finer:
                break
            spectra = torch.fft.fft2(moduli)
            pairs = (len(images), ANGLES, len(finer), ANGLES)
            block = out[:, channel : channel + ANGLES * len(finer) * ANGLES].view(*pairs, *out.shape[2:])
            for position, k in enumerate(finer):
                maps = _moduli(spectra.flatten(0, 1)[:, None], self._buffer(f"wavelets_{j}_{k}"))
                block[:, :, position] = self._averaged(maps, k).view(pairs[0], ANGLES, ANGLES, *out.shape[2:])
            channel += ANGLES * len(finer) * ANGLES

    def _averaged(self, maps: Tensor, resolution: int) -> Tensor:
        window = self._buffer(f"low_pass_{resolution}")
        return window @ maps @ window.T

    def _buffer(self, name: str) -> Tensor:
        return self.get_buffer(name)


def _filters(size: int, *, scale: int, resolution: int) -> Tensor:
    """Fourier transforms of the eight wavelets of one scale, for maps already at stride 2^resolution.

    Returns:
        (aliases, 8, small, 2·small) float32: a Morlet wavelet has a real transform; each value appears twice, for the
        real and the imaginary part of what it multiplies. An alias is a block of frequencies that falls on the same
        frequency at stride 2^scale; the factor of that subsampling is included.
    """
    fold = 2 ** (scale - resolution)
    small = size // 2**scale
    bank = []
    for direction in range(ANGLES):
        wavelet = morlet(size, scale=scale, angle=direction * math.pi / ANGLES)
        coarse = wavelet[:: 2**resolution, :: 2**resolution] * 4**resolution
        bank.append(torch.fft.fft2(coarse).real / fold**2)
    blocks = torch.stack(bank).view(ANGLES, fold, small, fold, small)
    aliases = blocks.permute(1, 3, 0, 2, 4).flatten(0, 1)
    return torch.repeat_interleave(aliases, 2, dim=-1).float()


def _low_pass(pixels: int, *, resolution: int) -> Tensor:
    """Gaussian window at every 8th pixel inside the mirrored border: (pixels / 8, size / 2^resolution) float32."""
    size = pixels + 2 * STRIDE
    centres = STRIDE * (1 + torch.arange(pixels // STRIDE))
    samples = 2**resolution * torch.arange(size // 2**resolution)
    bell = gaussian(size, scale=SCALES)
    return bell[(centres[:, None] - samples) % size].mul(2**resolution).float()


def _moduli(spectra: Tensor, wavelets: Tensor) -> Tensor:
    """Moduli of the wavelet transform: spectra (n, 1, s, s), wavelets (aliases, 8, small, 2·small)."""
    aliases, angles, small, _ = wavelets.shape
    fold = math.isqrt(aliases)
    parts = torch.view_as_real(spectra).flatten(-2)  # (n, 1, s, 2·s): real and imaginary parts alternate
    folded = torch.zeros(len(spectra), angles, small, 2 * small, device=spectra.device)
    for alias in range(aliases):
        row, column = divmod(alias, fold)
        block = parts[:, :, row * small : (row + 1) * small, 2 * column * small : 2 * (column + 1) * small]
        folded.addcmul_(block, wavelets[alias])
    pairs = folded.view(*folded.shape[:-1], small, 2)
    moduli: Tensor = torch.fft.ifft2(torch.view_as_complex(pairs)).abs()
    return moduli
