"""A running service, and a client with keys of its own, shared by the folder's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from wire_service import TOKEN, WireService, serving

from primia.diagnosis.client.client import Client


@pytest.fixture(scope="session")
def running(small) -> Iterator[WireService]:
    service = WireService(small.bundle, small.engine)
    with serving(service.application()) as port:
        service.url = f"http://127.0.0.1:{port}"
        yield service


@pytest.fixture
def service(running) -> Iterator[WireService]:
    """Honest, and without memory of the tests before."""
    running.reset()
    yield running
    running.reset()


@pytest.fixture(scope="session")
def key_folder(running, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("client") / "keys"
    Client.keygen(folder, running.url, token=TOKEN)
    return folder


@pytest.fixture(scope="session")
def opened(key_folder) -> Client:
    return Client(key_folder)


@pytest.fixture
def client(service, opened) -> Client:
    return opened


@pytest.fixture
def copied(key_folder, tmp_path) -> Path:
    """A key folder that a test may spoil."""
    folder = tmp_path / "copied"
    folder.mkdir(mode=0o700)
    for path in key_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(0o600)
    return folder
