"""The viewer's local web server: shows an image, and has it diagnosed encrypted with the keys of this machine."""

import asyncio
import contextlib
import hmac
import importlib
import importlib.resources
import json
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from primia.diagnosis.viewer.guard import Guard
from primia.diagnosis.viewer.pictures import named_as_the_image, pictures_of
from primia.errors import EncryptionError, PrimiaError
from primia.seal import memory_file

if TYPE_CHECKING:
    from primia.diagnosis.client.client import Client
    from primia.diagnosis.wire import ModelDescription

HOST = "127.0.0.1"
PORT = 8600
MOST_BYTES = 64_000_000  # of an image: a radiograph of 4000 x 4000 pixels of 16 bit has half of it
UNFORESEEN = "The viewer failed for a reason it does not know; try once more."
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/calls.js": ("calls.js", "text/javascript"),
    "/favicon.ico": ("icon.svg", "image/svg+xml"),
}

logger = logging.getLogger(__name__)


def create_viewer(client: "Client", *, token: str, port: int) -> ASGIApp:
    """The page and what it asks for, as an ASGI application behind its `Guard`.

    Routes: the page's files; GET /hello, by which the page knows its viewer; GET /api/model; POST /api/preview and POST
    /api/diagnosis, whose bodies are the image file. A diagnosis answers with lines of JSON: `{"step", "seconds",
    "bytes"}` as the steps pass, then `{"diagnosis"}` or `{"refused"}` with one sentence. One diagnosis runs at a time.
    Nothing of an image outlives its request.

    Args:
        client: holder of the keys.
        token: random text of this start, which every call must carry.
        port: where the application is served on this machine, for the check of the header Host.
    """
    viewer = _Viewer(client)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # The first image need not wait for what takes seconds to import.
        warm = asyncio.create_task(asyncio.to_thread(importlib.import_module, "primia.data.preprocess"))
        yield
        await warm

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(PrimiaError, _refuse)
    app.add_exception_handler(Exception, _fail)
    for path, (name, kind) in FILES.items():
        app.add_api_route(path, _file(name, kind), methods=["GET"])
    app.add_api_route("/hello", _hello(token), methods=["GET"])
    app.add_api_route("/api/model", viewer.model, methods=["GET"])
    app.add_api_route("/api/preview", viewer.preview, methods=["POST"])
    app.add_api_route("/api/diagnosis", viewer.diagnosis, methods=["POST"])
    return Guard(app, token=token, hosts=frozenset({f"127.0.0.1:{port}"}))


def run_viewer(
    keys: Path, *, passphrase: str | None = None, host: str = HOST, port: int = PORT, say: Callable[[str], None] = print
) -> None:
    """Serve the page on this machine until it is interrupted; `say` is told the address to open.

    The address holds the token, so no browser is started here: the command line of a process is open to other users.

    Args:
        keys: folder that keygen wrote.
        passphrase: of the secret key, if it has one.
        host: 127.0.0.1 or localhost; nothing else is served.
        port: 0 for any free one.

    Raises:
        EncryptionError: no usable keys, another host, or a port that is taken.
    """
    from primia.diagnosis.client.client import Client

    if host not in (HOST, "localhost"):
        raise EncryptionError(
            f"The viewer holds keys and images and serves this machine only, not {host}; leave out --host."
        )
    client = Client(keys, passphrase)
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        raise EncryptionError(
            f"Port {port} of this machine is taken or may not be used; choose another with --port (0: any free one)."
        ) from error
    with listening:
        token, port = secrets.token_urlsafe(32), listening.getsockname()[1]
        config = uvicorn.Config(
            create_viewer(client, token=token, port=port),
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=5,
        )
        # From here on connections wait in the socket's queue: the address can be opened at once.
        say(f"http://{HOST}:{port}/#{token}")
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _file(name: str, kind: str) -> Callable[[], Any]:
    content = importlib.resources.files(__package__).joinpath(name).read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


def _hello(token: str) -> Callable[[str], Any]:
    async def proof(nonce: Annotated[str, Query(pattern="^[0-9a-f]{32}$")]) -> dict[str, str]:
        """That this viewer knows the token, without telling it: a page left open may meet another program here."""
        return {"proof": hmac.digest(token.encode(), f"primia viewer {nonce}".encode(), "sha256").hex()}

    return proof


def _refuse(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=422)


def _fail(_: Request, __: Exception) -> JSONResponse:
    return JSONResponse({"detail": UNFORESEEN}, status_code=500)


class _Viewer:
    """What the page may ask of the client of this machine."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._described: ModelDescription | None = None
        self._diagnosing = asyncio.Lock()
        self._drawing = asyncio.Lock()

    async def model(self) -> dict[str, Any]:
        """The model that is asked, as the service describes it now."""
        return self._told(await self._describe())

    async def preview(self, request: Request) -> dict[str, Any]:
        """What is diagnosed, as a picture; and the file as a picture where a browser cannot draw it."""
        content = await _body(request)
        described = self._described or await self._describe()
        pixels = described.specification.pipeline_pixels
        async with self._drawing:  # one large image in memory at a time
            prepared, original = await asyncio.to_thread(pictures_of, content, pixels=pixels)
        return {"prepared": prepared, "original": original, "pixels": pixels, "model": self._told(described)}

    async def _describe(self) -> "ModelDescription":
        try:
            self._described = await asyncio.to_thread(self._client.describe)
        except PrimiaError as error:  # the service's trouble, which may pass, and not the image's
            raise HTTPException(502, str(error)) from error
        return self._described

    def _told(self, description: "ModelDescription") -> dict[str, Any]:
        return {
            "name": description.name,
            "version": description.version,
            "marks": description.marks,
            "server": self._client.server,
            "most_bytes": MOST_BYTES,
        }

    async def diagnosis(self, request: Request) -> StreamingResponse:
        """The steps of a diagnosis while they pass, then its answer."""
        content = await _body(request)
        if self._diagnosing.locked():
            raise HTTPException(409, "Another diagnosis is running on this computer; wait until it is done.")
        await self._diagnosing.acquire()
        lines: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def say(line: dict[str, Any] | None) -> None:
            loop.call_soon_threadsafe(lines.put_nowait, line)

        # Not part of the request: when the page is closed, the thread works on, and the next diagnosis waits for it.
        work = loop.run_in_executor(None, self._diagnose, content, say)
        work.add_done_callback(lambda _: self._diagnosing.release())
        return StreamingResponse(_json_lines(lines), media_type="application/x-ndjson")

    def _diagnose(self, content: bytes, say: Callable[[dict[str, Any] | None], None]) -> None:
        try:
            with memory_file(content) as name, named_as_the_image(name):
                diagnosis = self._client.diagnose(
                    Path(name), on_step=lambda step, details: say({"step": step, **details})
                )
            say({"diagnosis": asdict(diagnosis)})
        except PrimiaError as error:
            say({"refused": str(error)})
        except Exception as error:
            # Of an error nobody foresaw only the kind is kept: its text may repeat what must not be told.
            logger.error("The diagnosis failed: %s", type(error).__name__)
            say({"refused": UNFORESEEN})
        finally:
            say(None)


async def _json_lines(lines: "asyncio.Queue[dict[str, Any] | None]") -> AsyncIterator[bytes]:
    while (line := await lines.get()) is not None:
        yield json.dumps(line).encode() + b"\n"


async def _body(request: Request) -> bytes:
    """The uploaded file, refused as soon as it is announced or seen to be too large."""
    too_large = HTTPException(413, f"The file has more than {MOST_BYTES / 1e6:.0f} MB; choose a smaller one.")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > MOST_BYTES:
        raise too_large
    content = bytearray()
    try:
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                raise too_large
    except ClientDisconnect as error:
        raise HTTPException(400, "The page went away before the whole file had arrived.") from error
    if not content:
        raise HTTPException(422, "The file is empty; choose another one.")
    return bytes(content)
