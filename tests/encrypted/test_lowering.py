import numpy as np
import pytest
import torch
from torch import nn

from primia.encrypted.lowering import Affine, lower
from primia.errors import EncryptionError
from primia.models.polynomial import Quadratic


def applied(maps: tuple[Affine, ...], inputs: torch.Tensor) -> np.ndarray:
    values = inputs.double().numpy().T
    for number, affine in enumerate(maps):
        values = affine.matrix @ (values**2 if number else values) + affine.offset[:, None]
    return values.T


BODIES = {
    "strided, padded, grouped": (
        (2, 9, 7),
        [nn.Conv2d(2, 6, (3, 2), stride=(2, 1), padding=(1, 0), groups=2), nn.BatchNorm2d(6), Quadratic()],
    ),
    "dilated without bias, pooled": (
        (1, 12, 12),
        [nn.Conv2d(1, 3, 3, dilation=2, bias=False), nn.AvgPool2d(2), nn.BatchNorm2d(3, affine=False), Quadratic()],
    ),
    "overlapping padded pool": ((2, 6, 6), [nn.AvgPool2d(3, stride=2, padding=1), Quadratic()]),
    "two convolutions in a run": ((1, 8, 8), [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 3, stride=2), Quadratic()]),
    "a quadratic first and last": ((2, 3, 3), [Quadratic(), nn.Conv2d(2, 2, 2), Quadratic(), Quadratic()]),
}


@pytest.mark.parametrize("name", BODIES)
def test_the_maps_are_the_network(build, name) -> None:
    shape, body = BODIES[name]
    with torch.no_grad():
        flat = nn.Sequential(*body).eval()(torch.zeros(1, *shape)).numel()
    network = build(*body, nn.Flatten(), nn.Linear(flat, 5), nn.BatchNorm1d(5), shape=shape)
    inputs = torch.randn(8, int(np.prod(shape)))
    maps = lower(network)
    assert len(maps) == 1 + sum(isinstance(layer, Quadratic) for layer in body)
    np.testing.assert_allclose(applied(maps, inputs), network(inputs).detach().numpy(), atol=1e-4)


def test_a_patch_convolution_stays_sparse(build) -> None:
    network = build(nn.Conv2d(1, 3, 4, 4), Quadratic(), nn.Flatten(), nn.Linear(12, 2), shape=(1, 8, 8))
    first, last = lower(network)
    assert first.matrix.shape == (12, 64)
    assert first.matrix.nnz == 12 * 16
    assert (first.label, first.shape, first.stride) == ("0 (Conv2d)", (3, 2, 2), (4, 4))
    assert (last.label, last.stride) == ("2 (Flatten) + 3 (Linear)", None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([nn.Flatten(), nn.ReLU()], r"Layer 1 \(ReLU\) cannot be evaluated"),
        ([nn.Linear(4, 2)], r"Layer 0 \(Linear\) meets values on a grid; put a Flatten"),
        ([nn.Flatten(), nn.Linear(5, 2)], r"Layer 1 \(Linear\) takes 5 channels or values, but gets 16"),
        ([nn.Conv2d(2, 1, 1)], r"Layer 0 \(Conv2d\) takes 2 channels or values, but gets 1"),
        ([nn.Conv2d(1, 1, 5)], r"Layer 0 \(Conv2d\) has a kernel larger than its input of 4 x 4"),
        ([nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")], "pads with reflect; pad with zeros"),
        ([nn.Conv2d(1, 1, 3, padding="same")], "give the padding as a number"),
        ([nn.Flatten(), nn.Conv2d(1, 1, 1)], r"Layer 1 \(Conv2d\) comes after a Flatten"),
        ([nn.AvgPool2d(3, ceil_mode=True)], "uses ceil_mode"),
        ([nn.AvgPool2d(2, padding=1, count_include_pad=False)], "leaves padding out of its means"),
        ([nn.BatchNorm2d(1, track_running_stats=False)], "keeps no running statistics"),
        ([nn.BatchNorm1d(16)], "meets values of another form"),
        ([nn.Flatten(2)], "flattens some axes only"),
        ([nn.Conv2d(1, 3000, 1), nn.Conv2d(3000, 3000, 1)], r"Layer 1 \(Conv2d\) is a matrix of 144000000 weights"),
    ],
)
def test_a_layer_that_does_not_fit_is_refused_by_number_and_kind(body, said) -> None:
    from primia.models.polynomial import PolynomialNetwork

    with pytest.raises(EncryptionError, match=said):
        lower(PolynomialNetwork(nn.Sequential(*body), shape=(1, 4, 4)))
