"""Who may use the page: its own origin with the token of this start; other pages and other users are refused."""

import hmac
import logging

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TOKEN_HEADER = "primia-token"  # noqa: S105 - a name
GUARDED = "/api/"

logger = logging.getLogger(__name__)

# No script, style, image or connection from elsewhere; nothing is cached, framed or told to another site.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Guard:
    """ASGI middleware around the whole viewer.

    A page of another site can send requests to a local port. It cannot read the answers, unless its host name is
    rebound to 127.0.0.1: hence the check of Host. Origin and Sec-Fetch-Site tell such requests apart, and the token,
    which no other page and no other user of the machine knows, is asked for whatever concerns keys or images.

    Args:
        app: what is guarded.
        token: random text of this start.
        hosts: the values of the header Host that mean this viewer.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: frozenset[str]) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse with 403 and one sentence, or pass on; every answer carries the protecting headers."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        reason = self.refusal(scope["path"], Headers(scope=scope))
        answer = self._app if reason is None else JSONResponse({"detail": reason}, status_code=403)
        try:
            await answer(scope, receive, send_protected)
        except Exception as error:
            # The framework has answered 500 by now. Of an error that nobody foresaw only the kind is told: its text or
            # its trace may repeat what must stay in memory.
            logger.error("A request failed: %s", type(error).__name__)

    def refusal(self, path: str, headers: Headers) -> str | None:
        """Why a request is refused, in one sentence; None if it may pass."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return "The viewer answers under its own local address only; open the address that it printed."
        guarded = path.startswith(GUARDED)
        origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
        # "none" is what a browser says when a person typed the address or opened a bookmark.
        from_elsewhere = any(origin != f"http://{hosts[0].lower()}" for origin in origins) or any(
            site != "same-origin" and (guarded or site != "none") for site in sites
        )
        if from_elsewhere:
            return "The viewer takes no requests from other pages; open the address that it printed."
        if guarded and not hmac.compare_digest(headers.get(TOKEN_HEADER, "").encode(), self._token):
            return "The page does not know this viewer's token; open the whole address that the viewer printed."
        return None
