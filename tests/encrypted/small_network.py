"""A small exported network with real keys, made once for the folder's tests."""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from primia.encrypted.bundle import Bundle, make_bundle
from primia.encrypted.ckks import EvaluationKeys
from primia.encrypted.engine import Engine
from primia.encrypted.envelope import repacked, unpacked
from primia.encrypted.plan import Profile
from primia.models.polynomial import PolynomialNetwork, dense_network

CLASSES = ("normal", "bacterial", "viral")
TEACHER = "ab" * 32


def trained_network(*, pixels: int, hidden: int, classes: int, seed: int = 0) -> PolynomialNetwork:
    """Random weights, with batch-norm statistics and ranges of random images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = dense_network(pixels, hidden, classes)
        images = torch.rand(256, 1, 2 * pixels, 2 * pixels)
        for norm in (layer for layer in network.body if isinstance(layer, torch.nn.BatchNorm1d)):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.normal_(norm.bias, std=0.3)
    network.mean.fill_(0.5)
    network.std.fill_(0.15)
    return settled(network, network.inputs(images))


def settled(network: PolynomialNetwork, inputs: torch.Tensor) -> PolynomialNetwork:
    """Batch-norm statistics and ranges as training would leave them."""
    for norm in (layer for layer in network.body if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)):
        norm.momentum = None  # the average over all batches: one pass is enough
    network.train()
    with torch.no_grad():
        network(inputs)
    network.record_ranges(inputs)
    return network


def network_of(*body: nn.Module, shape: tuple[int, int, int], patch: int = 1, seed: int = 0) -> PolynomialNetwork:
    """Layers with random weights, as a network that has seen random values."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in body:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.reset_parameters()
        network = PolynomialNetwork(nn.Sequential(*body), shape=shape, patch=patch)
        return settled(network, torch.randn(64, shape[0] * shape[1] * shape[2]))


def bundle_of(network: PolynomialNetwork, classes: tuple[str, ...] = CLASSES, profile: Profile = "fast") -> Bundle:
    return make_bundle(
        network, classes=classes, pipeline_pixels=2 * network.pixels, teacher_digest=TEACHER, profile=profile
    )


def seeded(public: bytes) -> bytes:
    """A public key of the small network whose second half is a seed: SEAL reads such ciphertexts, too."""
    members, words, start = unpacked(public, 1 << 24, "it"), 7 * 8192, 73

    def header(size: int) -> bytes:
        return struct.pack("<HBBBBHQ", 0xA15E, 16, 4, 3, 0, 0, size)

    half = header(24 + 8 * words) + struct.pack("<Q", words) + members[start + 24 : start + 24 + 8 * words]
    return repacked(members[:start] + half + header(81) + b"\x01" + b"s" * 64)


@dataclass(frozen=True)
class Small:
    network: PolynomialNetwork
    bundle: Bundle
    engine: Engine
    secret_bytes: bytes
    key_bytes: bytes
    secret: Any
    keys: EvaluationKeys
    image: torch.Tensor  # (1, 16, 16)
    fresh: bytes


@pytest.fixture(scope="session")
def small() -> Small:
    network = trained_network(pixels=8, hidden=16, classes=3)
    bundle = bundle_of(network)
    engine = Engine(bundle.plan)
    secret_bytes, key_bytes = engine.scheme.generate_keys()
    secret = engine.scheme.load_secret(secret_bytes)
    image = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(5))
    slots = np.tile(network.inputs(image[None])[0].double().numpy(), 4096 // 64)
    return Small(
        network=network,
        bundle=bundle,
        engine=engine,
        secret_bytes=secret_bytes,
        key_bytes=key_bytes,
        secret=secret,
        keys=engine.scheme.load_keys(key_bytes),
        image=image,
        fresh=engine.scheme.encrypt(slots, secret),
    )


@pytest.fixture(scope="session")
def make_network() -> Any:
    return trained_network


@pytest.fixture(scope="session")
def build() -> Any:
    return network_of


@pytest.fixture(scope="session")
def export() -> Any:
    return bundle_of
