"""One service for a file's tests, with a clinic whose keys it knows."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from diagnosing import NAME, Clinic, Registry, Service, running

from primia.diagnosis.service.release import Release
from primia.encrypted.bundle import save_bundle


@pytest.fixture(scope="session")
def release_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Release]:
    def make(bundle: Any, version: str = "1", marks: str | None = None) -> Release:
        folder = tmp_path_factory.mktemp("release") / "bundle"
        save_bundle(folder, bundle)
        return Release(name=NAME, version=version, marks=marks, folder=folder)

    return make


@pytest.fixture(scope="module")
def service(small, release_of, tmp_path_factory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service"), Registry(release_of(small.bundle)), workers=2) as here:
        yield here


@pytest.fixture(scope="module")
def clinic(service, small) -> Clinic:
    made = Clinic(service, small, service.issue())
    assert made.enrol().status_code == 201
    return made
