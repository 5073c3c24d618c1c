"""The viewer's server without a browser: what it takes, one at a time, and where it may be served."""

import asyncio
import contextlib
import hmac
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from primia.cli_diagnosis import DISCLAIMER
from primia.diagnosis.client.client import Client
from primia.diagnosis.client.keyring import Keyring, Server
from primia.diagnosis.viewer import app as viewer_app
from primia.diagnosis.viewer.app import FILES, MOST_BYTES, create_viewer, run_viewer
from primia.errors import EncryptionError

TOKEN = "the-token-of-this-start"
FOLDER = Path(viewer_app.__file__).parent


@pytest.fixture(scope="module")
def silent():
    """A service that accepts a connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(60)
        yield listening


@pytest.fixture(scope="module")
def keys(small, silent, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clinic") / "keys"
    url = f"http://127.0.0.1:{silent.getsockname()[1]}"
    Keyring.create(
        folder,
        parameters=small.bundle.specification.parameters,
        server=Server(url=url, identity="ab" * 32, model="chest"),
        token=f"primia_{'0' * 8}_{'0' * 64}",
    )
    return folder


@pytest.fixture
def session(keys) -> httpx.AsyncClient:
    viewer = create_viewer(Client(keys), token=TOKEN, port=8600)
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(viewer), base_url="http://127.0.0.1:8600", headers={"primia-token": TOKEN}
    )


def test_only_one_diagnosis_runs_at_a_time(session, silent) -> None:
    async def two() -> tuple[httpx.Response, httpx.Response]:
        first = asyncio.create_task(session.post("/api/diagnosis", content=b"image"))
        connection, _ = await asyncio.to_thread(silent.accept)  # the first one has reached the service
        second = await session.post("/api/diagnosis", content=b"image")
        connection.close()
        return await first, second

    first, second = asyncio.run(two())
    assert second.status_code == 409
    assert second.json() == {"detail": "Another diagnosis is running on this computer; wait until it is done."}
    (line,) = map(json.loads, first.text.splitlines())
    assert "cannot be reached" in line["refused"]

    async def third() -> httpx.Response:
        asking = asyncio.create_task(session.post("/api/diagnosis", content=b"image"))
        connection, _ = await asyncio.to_thread(silent.accept)
        connection.close()
        return await asking

    assert asyncio.run(third()).status_code == 200  # a failed one does not block the next


def test_the_viewer_proves_that_it_knows_the_token_without_telling_it(session) -> None:
    nonce = "0123456789abcdef" * 2

    async def told(text: str) -> httpx.Response:
        async with session:
            del session.headers["primia-token"]
            return await session.get("/hello", params={"nonce": text})

    answer = asyncio.run(told(nonce))
    assert answer.json() == {"proof": hmac.digest(TOKEN.encode(), f"primia viewer {nonce}".encode(), "sha256").hex()}
    assert TOKEN not in answer.text


def test_another_name_of_this_machine_is_not_the_viewers(session) -> None:
    answer = asyncio.run(session.get("/", headers={"host": "localhost:8600"}))
    assert answer.status_code == 403  # the name may mean another listener


async def _endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(1 << 20)


def test_a_file_above_the_cap_is_refused_as_soon_as_that_is_known(session) -> None:
    answer = asyncio.run(session.post("/api/preview", content=_endless()))
    assert answer.status_code == 413
    assert answer.json() == {"detail": "The file has more than 64 MB; choose a smaller one."}
    announced = {"content-length": str(MOST_BYTES + 1)}
    assert asyncio.run(session.post("/api/diagnosis", content=b"", headers=announced)).status_code == 413


def test_an_empty_file_is_refused(session) -> None:
    answer = asyncio.run(session.post("/api/diagnosis", content=b""))
    assert (answer.status_code, answer.json()) == (422, {"detail": "The file is empty; choose another one."})


def test_a_service_that_cannot_be_reached_is_said_in_one_sentence(session, silent) -> None:
    async def ask() -> httpx.Response:
        asking = asyncio.create_task(session.get("/api/model"))
        connection, _ = await asyncio.to_thread(silent.accept)
        connection.close()
        return await asking

    answer = asyncio.run(ask())
    assert answer.status_code == 502  # which the page offers to try again
    assert re.fullmatch(r"The diagnosis server at http://\S+ cannot be reached [^.]*\.", answer.json()["detail"])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "hospital.example", ""])
def test_the_viewer_serves_no_other_machine(host, tmp_path) -> None:
    with pytest.raises(EncryptionError, match="serves this machine only"):
        run_viewer(tmp_path / "none", host=host, port=0)


def test_a_port_that_is_taken_is_said_in_one_sentence(keys) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            EncryptionError, match=rf"^Port {port} of this machine is taken or may not be used; [^\[]*\.$"
        ):
            run_viewer(keys, port=port)


def test_every_start_has_a_token_of_its_own(keys) -> None:
    class Interrupted(Exception):
        pass

    told: list[str] = []

    def say(address: str) -> None:
        told.append(address)
        raise Interrupted

    for _ in range(2):
        with contextlib.suppress(Interrupted):
            run_viewer(keys, port=0, say=say)
    one, other = (re.fullmatch(r"http://127\.0\.0\.1:\d+/#([\w-]{43})", address) for address in told)
    assert one is not None
    assert other is not None
    assert one[1] != other[1]


def test_the_page_asks_for_nothing_but_its_own_files() -> None:
    for name, _ in FILES.values():
        text = (FOLDER / name).read_text()
        assert re.findall(r"\w+://(?!www\.w3\.org/2000/svg)", text) == []
        assert set(re.findall(r"(?:src|href|from) ?=? ?\"(/[^\"]*)\"", text)) <= set(FILES)


def test_every_part_of_the_page_lies_beside_the_code_and_is_served() -> None:
    parts = {path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "")}
    assert parts == {name for name, _ in FILES.values()}


def test_the_page_disclaims_what_the_command_line_disclaims() -> None:
    assert DISCLAIMER in (FOLDER / "page.html").read_text()
