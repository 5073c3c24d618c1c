"""A small exported network with real keys, made once for the folder's tests."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from primia.encrypted.bundle import Bundle, make_bundle
from primia.encrypted.ckks import EvaluationKeys
from primia.encrypted.engine import Engine
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
    inputs = network.inputs(images)
    network.train()
    with torch.no_grad():
        for _ in range(50):
            network(inputs)
    network.record_ranges(inputs)
    return network


def bundle_of(network: PolynomialNetwork, classes: tuple[str, ...] = CLASSES) -> Bundle:
    return make_bundle(network, classes=classes, pipeline_pixels=2 * network.pixels, teacher_digest=TEACHER)


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
def export() -> Any:
    return bundle_of
