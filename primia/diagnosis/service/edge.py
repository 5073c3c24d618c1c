"""What every request goes through: a time, a count, a line in the log, and an answer that never shows a trace."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from primia.diagnosis.service.events import EventLog
from primia.diagnosis.service.metrics import Metrics
from primia.diagnosis.service.refusals import UNFORESEEN, body_of

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
# A refusal that is sent before the body has arrived gets lost if the connection ends while the client still sends.
_LINGER_S = 1.0
_LINGER_BYTES = 16 << 20


@dataclass
class Record:
    """What the log tells of a request; the handlers fill in the client's id once it is proven."""

    client: str | None = None
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    body_ended: bool = False


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, events: EventLog, metrics: Metrics) -> None:
        self._app, self._events, self._metrics = app, events, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and see its answer out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        record = Record()
        scope.setdefault("state", {})["record"] = record
        announced = Headers(scope=scope)
        has_body = announced.get("content-length", "0") != "0" or "transfer-encoding" in announced

        async def counted_receive() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                record.bytes_in += len(message.get("body", b""))
                record.body_ended = not message.get("more_body", False)
            return message

        async def dressed_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                if has_body and not record.body_ended:
                    headers["connection"] = "close"  # nobody reads what is left of the body
            elif message["type"] == "http.response.body":
                record.bytes_out += len(message.get("body", b""))
                if has_body and not record.body_ended and not message.get("more_body"):
                    await send({**message, "more_body": True})
                    await _linger(receive)
                    message = {"type": "http.response.body", "body": b""}
            await send(message)

        try:
            await self._app(scope, counted_receive, dressed_send)
        except Exception as error:  # one request must not show how it failed, nor end the service
            self._events.write("unforeseen", kind=type(error).__name__, source=_where(error))
            if record.status == 0:
                await _answer(dressed_send, 500, body_of(UNFORESEEN))
        finally:
            self._finish(scope, record, time.perf_counter() - started)

    def _finish(self, scope: Scope, record: Record, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.observe(route, record.status, seconds)
        if route in ("/healthz", "/identity", "/metrics") and record.status == 200:
            return  # asked for every few seconds
        self._events.write(
            "request",
            anonymous=record.client is None,
            client=record.client,
            route=route,
            status=record.status,
            ms=round(1e3 * seconds, 1),
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
        )


def _where(error: BaseException) -> str:
    """The source line that raised; never the values there."""
    trace: Any = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}" if trace is not None else "?"


async def _linger(receive: Receive) -> None:
    """Throw away what still arrives, for a moment and up to a size."""
    thrown = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while thrown < _LINGER_BYTES:
                message = await receive()
                thrown += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
