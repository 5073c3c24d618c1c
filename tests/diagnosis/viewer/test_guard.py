"""The viewer answers its own page, and neither other pages nor other users of the machine."""

import asyncio
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from primia.diagnosis.viewer.guard import HEADERS, Guard

TOKEN = "the-token-of-this-start"
HERE = "127.0.0.1:8600"
OWN = {"host": HERE, "primia-token": TOKEN, "origin": f"http://{HERE}", "sec-fetch-site": "same-origin"}


async def _inside(_: Any) -> PlainTextResponse:
    return PlainTextResponse("inside")


GUARDED = Guard(
    Starlette(routes=[Route("/", _inside), Route("/api/model", _inside)]),
    token=TOKEN,
    hosts=frozenset({HERE}),
)


def asked(path: str, headers: dict[str, str]) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(GUARDED), base_url=f"http://{HERE}") as session:
            return await session.get(path, headers=headers)

    return asyncio.run(ask())


def test_the_own_page_with_the_token_passes() -> None:
    answer = asked("/api/model", OWN)
    assert (answer.status_code, answer.text) == (200, "inside")


def test_a_typed_address_opens_the_page_without_a_token() -> None:
    assert asked("/", {"host": HERE, "sec-fetch-site": "none"}).text == "inside"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8600", "127.0.0.1", "127.0.0.1:8601", "127.0.0.1:8600.evil.example", ""]
)
@pytest.mark.parametrize("path", ["/", "/api/model"])
def test_a_foreign_host_is_refused_even_with_the_token(path: str, host: str) -> None:
    answer = asked(path, {"host": host, "primia-token": TOKEN})
    assert answer.status_code == 403
    assert "own local address" in answer.json()["detail"]


@pytest.mark.parametrize(
    "header",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8601"},  # another port is another origin
        {"origin": "http://localhost:8600"},  # and so is another name
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
)
def test_a_call_of_another_page_is_refused_even_with_the_token(header: dict[str, str]) -> None:
    answer = asked("/api/model", OWN | header)
    assert answer.status_code == 403
    assert "other pages" in answer.json()["detail"]


def test_another_page_cannot_even_link_to_the_viewer() -> None:
    assert asked("/", {"host": HERE, "sec-fetch-site": "cross-site"}).status_code == 403


LETTERS = st.characters(min_codepoint=33, max_codepoint=126)
NEARLY = st.builds(
    lambda place, letter: TOKEN[:place] + letter + TOKEN[place + 1 :], st.integers(0, len(TOKEN)), LETTERS
)
CUT = st.integers(0, len(TOKEN) - 1).map(TOKEN.__getitem__) | st.integers(0, len(TOKEN) - 1).map(
    lambda end: TOKEN[:end]
)


@given((st.text(LETTERS) | NEARLY | CUT).filter(lambda text: text != TOKEN))
def test_any_other_token_is_refused(token: str) -> None:
    answer = asked("/api/model", OWN | {"primia-token": token})
    assert answer.status_code == 403
    assert "token" in answer.json()["detail"]
    assert TOKEN not in answer.text


def test_a_missing_token_is_refused() -> None:
    headers = {name: value for name, value in OWN.items() if name != "primia-token"}
    assert asked("/api/model", headers).status_code == 403


@pytest.mark.parametrize("headers", [OWN, {"host": "evil.example"}])
def test_every_answer_carries_the_protecting_headers_and_none_lets_other_pages_read_it(headers: dict[str, str]) -> None:
    answer = asked("/api/model", headers)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert not [name for name in answer.headers if name.startswith("access-control") or name == "set-cookie"]
