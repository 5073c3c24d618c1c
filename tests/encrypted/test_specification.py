"""What a server may describe: nothing that makes a difference between images before they are encrypted."""

import functools

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from primia.encrypted.bundle import make_bundle
from primia.encrypted.ckks import Scheme
from primia.encrypted.inputs import image_slots
from primia.encrypted.parameters import (
    LARGEST_STD,
    SCATTERED_CHANNELS,
    SCATTERING_STRIDE,
    SMALLEST_STD,
    Packing,
    Parameters,
    Specification,
    parse_specification,
)
from primia.errors import EncryptionError
from primia.models import scattering
from primia.models.polynomial import PolynomialNetwork

# The smallest moduli that a description may have at this scale, and more moduli than scale.
TIGHT = Parameters(degree=8192, modulus_bits=(28, 20, 36), scale_bits=36, galois_elements=(3,))
WIDE = Parameters(degree=8192, modulus_bits=(44, 34, 34, 34, 46), scale_bits=34, galois_elements=(3,))
FRONTS = {
    "shrink": {"channels": 1, "height": 16, "width": 16},
    "scattering": {"channels": 217, "height": 2, "width": 2},
}


def said(front: str = "shrink", **changed) -> dict:
    fields = {
        "parameters": WIDE,
        "classes": ("normal", "viral"),
        "pipeline_pixels": 16,
        "front": front,
        "mean": 0.5,
        "std": 0.2,
        "packing": Packing(**FRONTS[front]),
        "model_digest": "ab" * 32,
        "teacher_digest": "cd" * 32,
    }
    return fields | changed


def extreme_images() -> dict[str, torch.Tensor]:
    grid = torch.arange(16)
    dot = torch.zeros(1, 16, 16)
    dot[0, 7, 9] = 1
    return {
        "black": torch.zeros(1, 16, 16),
        "white": torch.ones(1, 16, 16),
        "checkerboard": ((grid[:, None] + grid) % 2).float()[None],
        "dot": dot,
        "edge": (grid >= 8).float().expand(1, 16, 16),
    }


@functools.cache
def scheme_and_secret(parameters: Parameters):
    scheme = Scheme(parameters)
    return scheme, scheme.load_secret(scheme.generate_keys()[0])


@pytest.mark.parametrize("parameters", [TIGHT, WIDE])
@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("std", [SMALLEST_STD, LARGEST_STD])
@pytest.mark.parametrize("front", FRONTS)
def test_every_image_can_be_encrypted_whatever_may_be_described(front, std, mean, parameters) -> None:
    specification = Specification(**said(front, mean=mean, std=std, parameters=parameters))
    scheme, secret = scheme_and_secret(parameters)
    for image in extreme_images().values():
        slots = image_slots(image, specification)
        assert np.isfinite(slots).all()
        for row in slots:
            assert scheme.encrypt(row, secret)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mean", -1e-9),
        ("mean", 1.0001),
        ("mean", -3e38),
        ("mean", float("nan")),
        ("std", SMALLEST_STD / 2),
        ("std", 1e-300),
        ("std", 2 * LARGEST_STD),
        ("std", float("inf")),
        ("parameters", TIGHT.model_copy(update={"modulus_bits": (27, 20, 36)})),
        ("parameters", WIDE.model_copy(update={"modulus_bits": (20, 20, 20), "scale_bits": 40})),
    ],
)
def test_figures_at_which_only_some_images_could_be_encrypted_are_refused(key, value) -> None:
    with pytest.raises(ValidationError):
        Specification(**said(**{key: value}))


@pytest.mark.parametrize(
    "classes", [("a", "\x1b[2J"), ("a", "b\n"), ("a", ""), ("a", " b"), ("a", "b\u202e"), ("a", "b" * 65), ("a", "a")]
)
def test_class_names_that_steer_a_terminal_or_are_one_are_refused(classes) -> None:
    with pytest.raises(ValidationError):
        Specification(**said(classes=classes))


def test_plain_class_names_are_taken() -> None:
    names = ("normal", "Viral pneumonia, No. 2", "covid-19_a")
    assert Specification(**said(classes=names)).classes == names


@pytest.mark.parametrize(
    ("front", "shape", "pixels"),
    [
        ("shrink", (2, 16, 16), 16),
        ("shrink", (1, 16, 8), 16),
        ("shrink", (1, 17, 17), 16),
        ("scattering", (217, 2, 2), 24),
        ("scattering", (217, 2, 2), 17),
        ("scattering", (217, 1, 1), 8),
        ("scattering", (217, 4, 1), 16),
        ("scattering", (216, 2, 2), 16),
    ],
)
def test_a_packing_that_the_front_does_not_fill_is_refused_in_a_sentence(front, shape, pixels) -> None:
    packing = Packing(**dict(zip(("channels", "height", "width"), shape, strict=True)))
    honest = Specification(**said(front))
    lie = honest.model_copy(update={"packing": packing, "pipeline_pixels": pixels}).model_dump_json().encode()
    with pytest.raises(EncryptionError, match=r"^http://here gave no valid .* none that the front makes .*\.$"):
        parse_specification(lie, where="http://here")


def test_a_network_that_could_not_be_described_is_not_exported(build) -> None:
    network: PolynomialNetwork = build(torch.nn.Flatten(), torch.nn.Linear(32, 3), shape=(2, 4, 4))
    with pytest.raises(EncryptionError, match="none that the front makes"):
        make_bundle(network, classes=("a", "b", "c"), pipeline_pixels=8, teacher_digest="ab" * 32)


def test_the_figures_of_the_scattering_front_are_those_of_its_code() -> None:
    assert (SCATTERED_CHANNELS, SCATTERING_STRIDE) == (scattering.CHANNELS, scattering.STRIDE)
