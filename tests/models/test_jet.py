import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from primia.models.jet import SCALES, LocalJet
from primia.models.networks import build_network
from primia.privacy.noise import SystemNoise
from primia.training.private import private_gradient


@pytest.mark.parametrize(("dims", "shape"), [(2, (24, 20)), (3, (20, 16, 12))])
def test_derivatives_are_those_of_a_gaussian_as_scipy_takes_them(dims, shape):
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1))
    jet = LocalJet(dims)
    maps = iter(jet._derivatives(image))
    for sigma in SCALES:
        for orders in jet.orders:
            found = next(maps)[0, 0].numpy()
            expected = gaussian_filter(image[0, 0].double().numpy(), sigma, order=orders, mode="nearest")
            # Kernels of a finite reach are corrected so that a constant has no derivative: hence the tolerance.
            np.testing.assert_allclose(found, expected * sigma ** sum(orders), atol=0.02)
            assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize(("dims", "channels"), [(2, 30), (3, 50)])
def test_every_map_has_mean_zero_and_variance_one_within_its_image(dims, channels):
    images = torch.rand(3, 1, *[16] * dims, generator=torch.Generator().manual_seed(2))
    maps = LocalJet(dims)(images).float().movedim(-1, 1)
    assert maps.shape == (3, channels, *[16] * dims)
    derivatives = maps[:, : channels - dims - dims * (dims + 1) // 2].flatten(2)
    assert derivatives.mean(dim=2).abs().max() < 0.05  # what is far out is cut off
    assert (derivatives.var(dim=2) - 1).abs().max() < 0.3


def test_exposure_and_contrast_make_no_difference():
    images = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(3))
    jet = LocalJet(2)
    torch.testing.assert_close(jet(images), jet(3 * images - 1), atol=0.05, rtol=0.01)  # float16


def test_a_uniform_image_gives_numbers():
    assert bool(torch.isfinite(LocalJet(3)(torch.full((1, 1, 12, 12, 12), 0.5))).all())


def test_coordinates_tell_left_from_right_and_front_from_back():
    maps = LocalJet(2)(torch.zeros(1, 1, 16, 16)).float()[0]
    x, y = maps[..., -5], maps[..., -4]
    assert bool((x.diff(dim=0) > 0).all()) and bool((y.diff(dim=1) > 0).all())
    assert x[0, 0] == -x[-1, 0] and x.abs().max() < 1


@pytest.mark.parametrize(("depth", "parameters"), [(None, 547), (16, 867)])
def test_the_network_gives_every_pixel_logits_and_learns_few_parameters(depth, parameters):
    network = build_network("jet", classes=3, pixels=24, seed=1, depth=depth)
    shape = (24, 24) if depth is None else (24, 24, depth)
    assert network(torch.rand(2, 1, *shape)).shape == (2, 3, *shape)
    assert sum(weight.numel() for weight in network.parameters()) == parameters
    assert not list(network.front.parameters())


def test_a_patients_gradient_of_the_head_can_be_clipped():
    network = build_network("jet", classes=2, pixels=16, seed=1)
    inputs = network.front(torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(4)))
    masks = (torch.rand(4, 16, 16, generator=torch.Generator().manual_seed(5)) < 0.3).to(torch.uint8)
    gradient = private_gradient(
        network.head,
        inputs=inputs,
        labels=masks,
        patients_drawn=[torch.tensor(0), torch.tensor(2)],
        clip_norm=1e-3,
        noise_multiplier=0.0,
        expected_batch=1.0,
        noise=SystemNoise(),
        loss="dice_cross_entropy",
    )
    norm = torch.cat([value.flatten() for value in gradient.values()]).double().norm()
    assert 0 < norm <= 2e-3
