"""HTTP connections within limits: their number, the time that headers may take, and refusals in one sentence.

uvicorn limits how long an idle connection is kept, but neither how slowly headers may arrive nor how many connections
one address may hold.
"""

import asyncio
import ipaddress
from collections import Counter
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from primia.diagnosis.service.refusals import UNREADABLE, body_of
from primia.diagnosis.service.settings import ServiceSettings

HANDSHAKE_S = 10.0
GOODBYE_S = 1.0  # for a client to read a refusal and to close TLS


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose servers give a TLS handshake `HANDSHAKE_S` instead of a minute, and its end `GOODBYE_S`."""

    async def create_server(self, *arguments: Any, **options: Any) -> asyncio.Server:
        """As in asyncio."""
        if options.get("ssl") is not None:
            options["ssl_handshake_timeout"] = HANDSHAKE_S
            options["ssl_shutdown_timeout"] = GOODBYE_S
        return await super().create_server(*arguments, **options)


def network_of(address: str) -> str:
    """What counts as one address: of IPv6 the first 64 bits, as whoever has one of them has them all."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def limited_protocol(settings: ServiceSettings) -> type[H11Protocol]:
    """uvicorn's protocol with this service's limits; the counts are those of one server."""

    class LimitedProtocol(H11Protocol):
        addresses: ClassVar[Counter[str]] = Counter()

        def __init__(
            self,
            config: Any,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._headers_by: asyncio.TimerHandle | None = None
            self._address: str | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            address = network_of(self.client[0]) if self.client else "local"
            if self.addresses.total() >= settings.connections:  # those refused just now do not count
                self._refuse(503, "The service has as many connections as it can hold; come back in a moment.")
            elif self.addresses[address] >= settings.connections_per_address:
                self._refuse(429, "This address has as many connections as it may have; close some of them.")
            else:
                self._address = address
                self.addresses[address] += 1
                self._expect_headers()

        def connection_lost(self, exc: Exception | None) -> None:
            self._headers_arrived()
            if self._address is not None:
                self.addresses[self._address] -= 1
                if not self.addresses[self._address]:
                    del self.addresses[self._address]
                self._address = None
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            waiting = self.cycle is None or self.cycle.response_complete
            if waiting and self._headers_by is None:
                self._expect_headers()
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._headers_arrived()

        def send_400_response(self, msg: str) -> None:
            self._refuse(400, UNREADABLE)

        def _expect_headers(self) -> None:
            self._headers_by = self.loop.call_later(settings.header_s, self._too_slow)

        def _headers_arrived(self) -> None:
            if self._headers_by is not None:
                self._headers_by.cancel()
                self._headers_by = None

        def _too_slow(self) -> None:
            self._headers_by = None
            if not self.transport.is_closing():
                self._refuse(408, "The headers arrive too slowly; send the request again.")

        def _refuse(self, status: int, sentence: str) -> None:
            """An answer outside of any request, then the end of the connection."""
            body = body_of(sentence)
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
                headers += [("connection", "close"), ("retry-after", "2")]
                for event in (
                    h11.Response(status_code=status, headers=headers),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()
            self.loop.call_later(GOODBYE_S, self.transport.abort)  # also when nobody reads the answer

    return LimitedProtocol
