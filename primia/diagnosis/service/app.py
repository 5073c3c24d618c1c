"""The diagnosis service as an ASGI application: takes evaluation keys once, then answers encrypted images."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from primia.diagnosis.service.bodies import announced_size, body_of_request
from primia.diagnosis.service.edge import Edge
from primia.diagnosis.service.events import EventLog, ServerMessages
from primia.diagnosis.service.identity import load_or_make_identity
from primia.diagnosis.service.key_store import KeyStore
from primia.diagnosis.service.limits import AtOnce, Memory, Rate
from primia.diagnosis.service.metrics import Metrics
from primia.diagnosis.service.questions import Desk
from primia.diagnosis.service.refusals import SENTENCES, UNREADABLE, Refusal
from primia.diagnosis.service.release import Release, Releases
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.service.tokens import TOKENS_FILE, Token, Tokens
from primia.diagnosis.service.usage import Usage
from primia.diagnosis.wire import SIGNATURE_HEADER, Nonce, sign_identity
from primia.errors import EncryptionError

MESSAGE = "application/msgpack"
_FRAME = 4096  # bytes of a message beside its keys
_SWEEP_S = 60.0


def create_app(releases: Callable[[], Release | None], *, state: Path, settings: ServiceSettings) -> FastAPI:
    """The service: GET /healthz, /identity and /metrics for all; for a token's holder GET /models/{name}, POST /keys,
    and POST /models/{name}/predict (see `primia.diagnosis.wire`).

    Args:
        releases: the approved release now, or None; asked every `settings.poll_s` seconds, from a thread.
        state: folder of tokens, identity, keys and usage; mode 0700. One service at a time.
        settings: limits.

    Raises:
        EncryptionError: the state cannot be used.
    """
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    events, metrics = EventLog(settings.log), Metrics()
    identity = load_or_make_identity(state / "identity.pem")
    tokens, usage = Tokens(state / TOKENS_FILE), Usage(state / "usage.sqlite")
    keys = KeyStore(state / "keys", settings)
    followed = Releases(
        releases, folder=state / "releases", identity=identity, settings=settings, events=events, metrics=metrics
    )
    desk = Desk(keys=keys, usage=usage, identity=identity, settings=settings, metrics=metrics)
    rate = Rate(per_s=settings.rate_per_s, burst=settings.rate_burst)
    at_once, memory = AtOnce(settings.requests_per_client), Memory(settings.upload_bytes)
    metrics.gauge("primia_keys_kept", "Clients' evaluation keys.", lambda: len(keys))
    metrics.gauge("primia_keys_bytes", "Size of clients' evaluation keys.", lambda: keys.size)
    metrics.gauge("primia_waiting", "Requests that no worker has begun.", lambda: _of(followed, "waiting"))
    metrics.gauge("primia_workers_busy", "Workers at work.", lambda: _of(followed, "busy"))
    metrics.gauge("primia_workers_alive", "Workers ready or at work.", lambda: _of(followed, "alive"))

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        handler = ServerMessages(events)
        server_log = logging.getLogger("uvicorn")
        server_log.addHandler(handler)
        server_log.propagate = False  # other handlers would write what a client sent, and traces
        followed.start()
        sweeping = asyncio.create_task(_sweep(keys, tokens))
        events.write("started", identity=identity.public)
        try:
            yield
        finally:
            sweeping.cancel()
            await asyncio.to_thread(followed.close)
            usage.close()
            events.write("stopped")
            server_log.removeHandler(handler)
            server_log.propagate = True
            events.close()

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Edge, events=events, metrics=metrics)
    app.state.releases, app.state.identity, app.state.events = followed, identity.public, events
    _say_errors_in_one_sentence(app)

    @contextlib.contextmanager
    def admitted(request: Request) -> Iterator[Token]:
        """The holder of the request's token, within its rate and its requests at once."""
        token = tokens.holder(request.headers.get("authorization"))
        request.state.record.client = token.id
        rate.take(token.id)
        with at_once.one(token.id):
            yield token

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        try:
            release = followed.served().release
        except Refusal:
            return {"status": "ok", "model": None}
        return {"status": "ok", "model": {"name": release.name, "version": release.version}}

    @app.get("/identity")
    async def prove_identity(nonce: Nonce) -> dict[str, str]:
        return {"identity": identity.public, "signature": sign_identity(identity.private, nonce)}

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/models/{name}")
    async def model(name: str, request: Request) -> Response:
        with admitted(request):
            served = followed.served(name)
            headers = {SIGNATURE_HEADER: served.signature}
            return Response(served.description, media_type="application/json", headers=headers)

    @app.post("/keys")
    async def enrol(request: Request) -> JSONResponse:
        with admitted(request) as token:
            served = followed.served()
            most = served.specification.parameters.most_key_bytes + _FRAME
            announced_size(request, most=most)
            _may_ask(token)
            await asyncio.to_thread(usage.check_quota, token.id, "enrolment", most=settings.daily_enrolments)
            async with body_of_request(request, most=most, settings=settings, memory=memory) as body:
                signature = request.headers.get(SIGNATURE_HEADER)
                digest = await desk.enrol(token, served, body, signature)
            return JSONResponse({"keys": digest, "expire_s": settings.keys_expire_s}, status_code=201)

    @app.post("/models/{name}/predict")
    async def predict(name: str, request: Request) -> Response:
        with admitted(request) as token:
            most = followed.served(name).specification.most_question_bytes + _FRAME
            announced_size(request, most=most)
            _may_ask(token)
            await asyncio.to_thread(usage.check_quota, token.id, "question", most=token.daily)
            async with body_of_request(request, most=most, settings=settings, memory=memory) as body:
                served = followed.served(name)  # it may have changed while the body came
                signature = request.headers.get(SIGNATURE_HEADER)
                answered = await desk.answer(token, served, name, body, signature)
            done = answered.done
            timing = f"queue;dur={1e3 * done.queue_s:.1f}, evaluate;dur={1e3 * done.evaluate_s:.1f}"
            headers = {SIGNATURE_HEADER: answered.signature, "server-timing": timing}
            return Response(answered.body, media_type=MESSAGE, headers=headers)

    return app


def _may_ask(token: Token) -> None:
    if token.daily == 0:
        raise Refusal(403, "This token may not ask (its daily quota is 0); ask who runs the service for another.")


def _of(followed: Releases, figure: str) -> float:
    pool = followed.pool()
    return float(getattr(pool, figure)) if pool is not None else 0.0


async def _sweep(keys: KeyStore, tokens: Tokens) -> None:
    while True:
        await asyncio.sleep(_SWEEP_S)
        with contextlib.suppress(EncryptionError):  # a damaged file of tokens: requests say so
            keys.sweep(tokens.valid_ids())


def _say_errors_in_one_sentence(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=error.status, headers=dict(error.headers()))

    @app.exception_handler(EncryptionError)
    async def unusable(_: Request, error: EncryptionError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.exception_handler(RequestValidationError)
    async def unreadable(_: Request, __: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": UNREADABLE}, status_code=422)

    @app.exception_handler(HTTPException)
    async def no_such_thing(_: Request, error: HTTPException) -> JSONResponse:
        sentence = SENTENCES.get(error.status_code, f"{HTTPStatus(error.status_code).phrase}; {UNREADABLE}")
        return JSONResponse({"detail": sentence}, status_code=error.status_code, headers=dict(error.headers or {}))
