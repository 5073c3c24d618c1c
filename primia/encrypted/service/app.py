"""The diagnosis server: takes evaluation keys once, then answers encrypted images with encrypted logits."""

import asyncio
import contextlib
import multiprocessing
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from primia.encrypted.bundle import Bundle
from primia.encrypted.service import worker
from primia.encrypted.service.key_store import KeyStore
from primia.errors import EncryptionError

BINARY = "application/octet-stream"
# What may be in memory at once: key uploads of some 45 MB, and ciphertexts of a quarter of a MB.
MOST_UPLOADS = 2
MOST_QUESTIONS = 16
BODY_S = 60.0


class _Pool:
    """Worker processes that are replaced when one of them dies."""

    def __init__(self, bundle: Bundle, *, workers: int, memory_bytes: int) -> None:
        self._bundle = bundle
        self._workers = workers
        self._memory_bytes = memory_bytes
        self._executor = self._started()

    def _started(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._workers,
            mp_context=multiprocessing.get_context("spawn"),  # a server has threads; forking one can hang
            initializer=worker.start,
            initargs=(self._bundle.plan, self._memory_bytes),
        )

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        executor = self._executor
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)
        except BrokenProcessPool as error:
            if self._executor is executor:  # the first of several requests to notice
                self._executor = self._started()
                executor.shutdown(wait=False)
            raise HTTPException(503, "The evaluation was broken off; send the request again.") from error

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)


def create_app(
    bundle: Bundle,
    *,
    max_clients: int = 16,
    keys_expire_s: float = 3600.0,
    workers: int = 1,
    worker_memory_bytes: int = 4 << 30,
) -> FastAPI:
    """The service as an ASGI application; run it behind TLS and an authenticating proxy.

    Routes: GET /healthz, GET /model (public specification), POST /keys (evaluation keys, answered with their SHA-256),
    POST /predict?keys=<SHA-256> (ciphertext to ciphertext). Bodies are capped while they arrive, by what the model's
    parameters can need at most; bytes are only ever read into the server's own context; nothing of them is logged.

    Args:
        bundle: the model; verified here.
        max_clients: evaluation keys kept at once, about 30 MB each on disk.
        keys_expire_s: seconds after the last use until keys are forgotten.
        workers: processes that evaluate, one request each at a time.
        worker_memory_bytes: address space of a worker process.
    """
    bundle.verify()
    parameters = bundle.specification.parameters
    specification = bundle.specification.model_dump_json().encode()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.pool = _Pool(bundle, workers=workers, memory_bytes=worker_memory_bytes)
        app.state.keys = KeyStore(most=max_clients, expire_s=keys_expire_s)
        app.state.uploads = asyncio.Semaphore(MOST_UPLOADS)
        app.state.questions = asyncio.Semaphore(MOST_QUESTIONS)
        try:
            await app.state.pool.run(worker.ready)
            yield
        finally:
            app.state.pool.close()
            app.state.keys.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.exception_handler(EncryptionError)
    async def refuse(_: Request, error: EncryptionError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "clients": len(app.state.keys)}

    @app.get("/model")
    async def model() -> Response:
        return Response(specification, media_type="application/json")

    @app.post("/keys", status_code=201)
    async def enrol(request: Request) -> dict[str, Any]:
        store: KeyStore = app.state.keys
        async with _one_of(app.state.uploads):
            content = await _capped(request, parameters.most_key_bytes)
            name = store.add(content)
            del content
        if name is None:
            raise HTTPException(503, f"The server already keeps the keys of {max_clients} clients; try again later.")
        path = store.path(name)
        try:
            await app.state.pool.run(worker.check_keys, path)
        except (EncryptionError, HTTPException):
            store.forget(name)
            raise
        return {"keys": name, "expire_s": keys_expire_s}

    @app.post("/predict")
    async def predict(request: Request, keys: str = "") -> Response:
        path = app.state.keys.path(keys)
        if path is None:
            raise HTTPException(404, "These keys are not known here, or no longer; enrol them again.")
        async with _one_of(app.state.questions):
            content = await _capped(request, parameters.most_ciphertext_bytes)
            return Response(await app.state.pool.run(worker.evaluate, path, content), media_type=BINARY)

    return app


@contextlib.asynccontextmanager
async def _one_of(places: asyncio.Semaphore) -> AsyncIterator[None]:
    """Take a place or refuse at once: what waits would hold memory, too."""
    if places.locked():
        raise HTTPException(503, "The server has as many requests as it can hold; send this one again in a moment.")
    async with places:
        yield


async def _capped(request: Request, most: int) -> bytes:
    """A body of at most `most` bytes that arrives in time, refused as soon as it is known or seen to be longer."""
    try:
        async with asyncio.timeout(BODY_S):
            return await _read_capped(request, most)
    except TimeoutError as error:
        raise HTTPException(408, f"The body did not arrive within {BODY_S:.0f} s; send it again.") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "The client went away before its body had arrived.") from error


async def _read_capped(request: Request, most: int) -> bytes:
    too_long = HTTPException(413, f"The body is longer than the {most} bytes this model can need; check what was sent.")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > most:
        raise too_long
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most:
            raise too_long
    return bytes(content)
