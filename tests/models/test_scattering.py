import functools
import math
import re

import numpy as np
import pytest
import torch

from primia.errors import ConfigError
from primia.models.scattering import CHANNELS, Scattering


@functools.cache
def a_wavelet(size: int, j: int, angle: int) -> np.ndarray:
    """Bruna & Mallat's Morlet wavelet in direction angle·π/8, summed over neighbouring periods."""
    theta, sigma, xi = angle * math.pi / 8, 0.8 * 2**j, 3 * math.pi / 4 / 2**j
    row, column = np.mgrid[-2 * size : 3 * size, -2 * size : 3 * size]
    along = row * math.cos(theta) + column * math.sin(theta)
    across = -row * math.sin(theta) + column * math.cos(theta)
    height = np.exp(-(along**2 + across**2 / 4) / (2 * sigma**2)) / (4 * math.pi * sigma**2)

    def periodic(values: np.ndarray) -> np.ndarray:
        return values.reshape(5, size, 5, size).sum(axis=(0, 2))

    wave, bell = periodic(height * np.exp(1j * xi * along)), periodic(height)
    return wave - bell * wave.sum() / bell.sum()


@functools.cache
def offsets(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns from each pixel to each other one, around the edges."""
    row, column = (index.ravel() for index in np.indices((size, size)))
    return (row[:, None] - row) % size, (column[:, None] - column) % size


def convolve(maps: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Circular convolution of each of the maps (n, size, size) as the sum it is, every pair of pixels."""
    size = len(kernel)
    weights = kernel[offsets(size)]
    return (maps.reshape(len(maps), -1) @ weights.T).reshape(-1, size, size)


def directly_scattered(image: np.ndarray, *, strides: bool) -> np.ndarray:
    """The definition; with `strides`, maps are kept at the resolution of their wavelet."""
    padded = np.pad(image, 8, mode="reflect")
    size = len(padded)
    position = np.minimum(np.arange(size), size - np.arange(size))
    bell = np.exp(-(position**2) / (2 * 3.2**2))
    phi = np.outer(bell, bell) / bell.sum() ** 2

    def averaged(maps: np.ndarray, stride: int) -> np.ndarray:
        inside = slice(8 // stride, (size - 8) // stride, 8 // stride)
        return convolve(maps, phi[::stride, ::stride] * stride**2)[:, inside, inside]

    first, second = [], []
    for j in range(3):
        stride = 2**j if strides else 1
        moduli = [np.abs(convolve(padded[None], a_wavelet(size, j, a))[0])[::stride, ::stride] for a in range(8)]
        first.append(averaged(np.stack(moduli), stride))
        paths = []
        for k in range(j + 1, 3):
            coarser = 2**k if strides else 1
            step = coarser // stride
            for angle in range(8):
                wavelet = a_wavelet(size, k, angle)[::stride, ::stride] * stride**2
                paths.append(averaged(np.abs(convolve(np.stack(moduli), wavelet))[:, ::step, ::step], coarser))
        if paths:
            second.append(np.stack(paths, axis=1).reshape(-1, *paths[0].shape[1:]))
    return np.concatenate([averaged(padded[None], 1), *first, *second])


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(16, 16))


def test_the_transform_is_what_its_definition_gives(image):
    expected = directly_scattered(image, strides=True)
    found = Scattering(16)(torch.from_numpy(image)[None, None])[0].numpy()
    assert found.shape == expected.shape == (217, 2, 2)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


def test_keeping_maps_at_the_resolution_of_their_wavelet_changes_little(image):
    full = directly_scattered(image, strides=False)
    found = Scattering(16)(torch.from_numpy(image)[None, None])[0].numpy()
    for orders in (slice(0, 1), slice(1, 25), slice(25, 217)):
        assert np.linalg.norm(found[orders] - full[orders]) < 0.1 * np.linalg.norm(full[orders])


def structured(pixels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(1, 1, pixels // 4, pixels // 4, generator=generator)
    return torch.nn.functional.interpolate(noise, size=(pixels, pixels), mode="bicubic")


def test_a_small_shift_moves_the_scattering_far_less_than_the_pixels():
    wide = structured(80)
    image, shifted = wide[..., 8:72, 8:72], wide[..., 9:73, 10:74]
    transform = Scattering(64)
    before, after = transform(image), transform(shifted)
    pixels_moved = (image - shifted).norm() / image.norm()
    features_moved = (before[:, 1:] - after[:, 1:]).norm() / before[:, 1:].norm()
    assert features_moved < 0.25 * pixels_moved
    assert (before - transform(-image))[:, 1:].abs().max() < 1e-5, "a modulus does not see the sign"


def test_only_the_local_mean_sees_a_constant():
    out = Scattering(32)(torch.full((1, 1, 32, 32), 2.0))
    assert torch.allclose(out[:, 0], torch.tensor(2.0), atol=1e-4)
    assert out[:, 1:].abs().max() < 1e-4


@pytest.mark.parametrize(("pixels", "side"), [(64, 8), (112, 14)])
def test_217_channels_at_an_eighth_of_the_side_each_image_on_its_own(pixels, side):
    images = torch.rand(5, 1, pixels, pixels, generator=torch.Generator().manual_seed(1))
    transform = Scattering(pixels)
    out = transform(images)
    assert out.shape == (5, CHANNELS, side, side)
    assert torch.allclose(transform(images[3:4]), out[3:4], atol=1e-6)
    assert out[:, 1:].min() >= 0


def test_a_size_that_does_not_fit_is_refused_with_one_that_does():
    with pytest.raises(ConfigError, match=re.escape("preprocess.pixels is 100")) as refused:
        Scattering(100)
    assert "choose 96" in str(refused.value)


def test_the_values_are_the_same_with_a_graph_and_without():
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    transform = Scattering(32)
    without = transform(images)
    followed = transform(images.clone().requires_grad_())
    assert followed.requires_grad and not without.requires_grad
    assert torch.equal(followed.detach(), without)


def test_nobody_who_asks_for_no_graph_pays_for_one():
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert not Scattering(16)(images.clone().requires_grad_()).requires_grad
    assert not Scattering(16)(images).requires_grad


def test_the_gradient_is_the_slope():
    generator = torch.Generator().manual_seed(4)
    images = structured(32).requires_grad_()
    weights = torch.randn(1, CHANNELS, 4, 4, generator=generator)
    transform = Scattering(32)
    [gradient] = torch.autograd.grad((transform(images) * weights).sum(), images)
    for _ in range(5):
        direction = torch.randn(images.shape, generator=generator)
        # Float32: a step far above rounding, and central, so that its own error is of third order.
        ahead, behind = (transform(images.detach() + step * direction) for step in (0.01, -0.01))
        slope = ((ahead - behind).double() * weights).sum() / 0.02
        assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=2e-2, abs=0.05)
