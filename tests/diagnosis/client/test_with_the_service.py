"""The client against the real service: workers, tokens, quotas and a registry that changes its mind."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diagnosing import NAME, Registry, Service, running, wait_until

from primia.diagnosis.client.client import Client
from primia.diagnosis.service.release import Release
from primia.diagnosis.service.tokens import Tokens
from primia.encrypted.bundle import save_bundle
from primia.errors import EncryptionError

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def release_of(tmp_path_factory) -> Callable[..., Release]:
    def make(bundle: Any, version: str, marks: str | None = None) -> Release:
        folder = tmp_path_factory.mktemp("release") / "bundle"
        save_bundle(folder, bundle)
        return Release(name=NAME, version=version, marks=marks, folder=folder)

    return make


@pytest.fixture(scope="module")
def real(small, release_of, tmp_path_factory) -> Iterator[Service]:
    registry = Registry(release_of(small.bundle, "1", marks="unfit for patients"))
    with running(tmp_path_factory.mktemp("service"), registry) as here:
        yield here


def made(real: Service, folder, token: str) -> Client:
    return Client.keygen(folder, real.url, token=token, model=NAME, fingerprint=real.app.state.identity)


@pytest.fixture(scope="module")
def asking(real, tmp_path_factory) -> Client:
    return made(real, tmp_path_factory.mktemp("client") / "keys", real.issue())


def expected(network, image: torch.Tensor) -> list[float]:
    return torch.softmax(network(network.inputs(image[None]))[0], dim=0).tolist()


def test_the_real_service_answers_as_the_network_in_the_clear(small, real, asking) -> None:
    for number in range(2):
        diagnosis = asking.diagnose(small.image)
        assert list(diagnosis.probabilities.values()) == pytest.approx(expected(small.network, small.image), abs=5e-3)
        assert (diagnosis.model, diagnosis.version, diagnosis.marks) == (NAME, "1", "unfit for patients")
        assert diagnosis.seconds["compute"] > 0.0
        assert ("enrol" in diagnosis.seconds) == (number == 0)
    assert asking.describe().identity == asking.fingerprint


def test_a_new_release_is_noticed_and_answers_from_then_on(
    small, real, asking, release_of, make_network, export
) -> None:
    before = real.registry.release
    network = make_network(pixels=8, hidden=16, classes=3, seed=3)
    real.registry.release = release_of(export(network), "2")
    try:
        wait_until(lambda: real.serves("2"), "the second version was not served")
        diagnosis = asking.diagnose(small.image)
    finally:
        real.registry.release = before
        wait_until(lambda: real.serves("1"), "the first version was not served again")
    assert (diagnosis.version, diagnosis.marks) == ("2", None)
    assert list(diagnosis.probabilities.values()) == pytest.approx(expected(network, small.image), abs=5e-3)


def test_a_model_that_lost_its_approval_is_said(small, real, asking) -> None:
    before, real.registry.release = real.registry.release, None
    try:
        wait_until(lambda: real.serves(None), "the model was still served")
        with pytest.raises(EncryptionError, match=r"refused \((404|503)\): .*\.$"):
            asking.diagnose(small.image)
    finally:
        real.registry.release = before
        wait_until(lambda: real.serves("1"), "the model was not served again")


def test_a_revoked_token_is_said_and_another_one_enrols_anew(small, real, tmp_path) -> None:
    token = real.issue()
    client = made(real, tmp_path / "keys", token)
    client.enrol()
    Tokens(real.state / "tokens.json").revoke(token.split("_")[1])
    with pytest.raises(EncryptionError, match=r"refused \(401\): .*\.$"):
        client.diagnose(small.image)
    renewed = Client(tmp_path / "keys", token=real.issue())
    renewed.keep_token()
    assert "enrol" in Client(tmp_path / "keys").diagnose(small.image).seconds


def test_a_quota_that_is_used_up_is_said_with_the_time_to_wait(small, real, tmp_path) -> None:
    client = made(real, tmp_path / "keys", real.issue(daily=1))
    client.diagnose(small.image)
    with pytest.raises(EncryptionError, match=r"refused \(429\): .*may be asked again in [0-9]+ s\.$"):
        client.diagnose(small.image)
