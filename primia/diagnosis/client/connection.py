"""One server, asked with care: no redirect is followed, no answer is longer than it may be, no proxy sees a token."""

import contextlib
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from primia.diagnosis.wire import SIGNATURE_HEADER, digest_of
from primia.errors import EncryptionError

TIMEOUT = httpx.Timeout(60.0, connect=10.0, read=180.0)  # seconds without a byte; an evaluation may wait for a place
DEADLINE_S = 300.0  # for a whole exchange, however steadily it drips, and besides what its upload may take
SLOWEST_UPLOAD = 100_000  # bytes a second
MOST_WAIT_S = 30.0
MOST_REFUSAL_BYTES = 65536
_LONGEST_SENTENCE = 400
_PIECE_BYTES = 1 << 18
_HOST = re.compile(rb"[A-Za-z0-9._:-]+")


class ServerRefusal(EncryptionError):
    """The server said no; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Reply:
    """A successful answer. `sent` is the SHA-256 of the body that was asked with, in hexadecimal."""

    body: bytes
    signature: str | None
    timing: str
    sent: str
    sent_bytes: int
    seconds: float


class Connection:
    """Requests to `url`, one after the other; with the token only once `authorise` was called.

    Plain http is for this machine only. Certificates are checked against `authority` (PEM) or the system's. Proxies of
    the environment are used for https alone, where they carry what they cannot read.
    """

    def __init__(self, url: str, *, token: str, authority: Path | None = None) -> None:
        self.url = checked_url(url)
        secure = self.url.startswith("https")
        try:
            # for plain http a context that trusts nobody: httpx would read its own list of authorities for nothing
            verify = ssl.create_default_context(cafile=authority) if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        except (ssl.SSLError, OSError) as error:
            raise EncryptionError(
                f"{authority} holds no certificates (PEM); give the file of the authority that signed the server's."
            ) from error
        self._http = httpx.Client(
            timeout=TIMEOUT,
            verify=verify,
            trust_env=secure and not is_loopback(self.url),
            follow_redirects=False,
            headers={"accept-encoding": "identity", "user-agent": "primia"},
        )
        self._token = token
        self._sockets: list[socket.socket] = []
        self._expired = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        for line in self._sockets:
            line.close()

    def authorise(self) -> None:
        """Send the token from now on: the server has shown who it is."""
        self._http.headers["authorization"] = f"Bearer {self._token}"

    def get(self, path: str, *, most: int) -> Reply:
        """Ask for at most `most` bytes; errors as in `post`."""
        return self._patiently(lambda: self._once("GET", path, most=most))

    def post(
        self, path: str, make: Callable[[], tuple[bytes, str]], *, most: int, on_sent: Callable[[], None] | None = None
    ) -> Reply:
        """Send what `make` gives, a body and its signature; `make` is called again for a second attempt.

        `on_sent` hears when all of it is on its way.

        Raises:
            ServerRefusal: with the server's own sentence.
            EncryptionError: no answer, or none that may be believed to come from a diagnosis service.
        """
        return self._patiently(lambda: self._once("POST", path, make(), most=most, on_sent=on_sent))

    def _patiently(self, once: Callable[[], Reply]) -> Reply:
        """One polite retry where the server is busy; any other refusal is passed on."""
        try:
            return once()
        except _Busy as busy:
            time.sleep(busy.wait_s)
        return once()

    def _once(
        self,
        method: str,
        path: str,
        signed: tuple[bytes, str] | None = None,
        *,
        most: int,
        on_sent: Callable[[], None] | None = None,
    ) -> Reply:
        body, headers = b"", {}
        pieces: Iterator[bytes] | None = None
        if signed is not None:
            body, signature = signed
            headers = {
                "content-type": "application/msgpack",
                "content-length": str(len(body)),
                SIGNATURE_HEADER: signature,
            }
            pieces = _pieces(body, on_sent)
        started = time.perf_counter()
        with (
            self._in_one_sentence(),
            self._in_time(DEADLINE_S + len(body) / SLOWEST_UPLOAD),
            self._http.stream(
                method, self.url + path, content=pieces, headers=headers, extensions={"trace": self._note_socket}
            ) as answer,
        ):
            if answer.is_redirect:
                raise EncryptionError(
                    f"{self.url} sends elsewhere ({answer.status_code}), which is not followed with a token; "
                    "give the server's own address."
                )
            content = self._read(answer, most=most if answer.is_success else MOST_REFUSAL_BYTES)
        if not answer.is_success:
            raise _refusal(answer, content)
        return Reply(
            body=content,
            signature=answer.headers.get(SIGNATURE_HEADER),
            timing=answer.headers.get("server-timing", ""),
            sent=digest_of(body),
            sent_bytes=len(body),
            seconds=time.perf_counter() - started,
        )

    def _read(self, answer: httpx.Response, *, most: int) -> bytes:
        if answer.headers.get("content-encoding", "identity") != "identity":
            raise EncryptionError(
                f"{self.url} compressed its answer, which was not asked for; give the server's own address."
            )
        content = bytearray()
        for chunk in answer.iter_raw():
            content += chunk
            if len(content) > most:
                raise EncryptionError(
                    f"{self.url} answers with more than the {most} bytes an answer can have; check the address."
                )
        return bytes(content)

    @contextlib.contextmanager
    def _in_time(self, seconds: float) -> Iterator[None]:
        """Shut the line when the time is over: timeouts of httpx are for one byte, and headers may drip, too."""
        self._expired.clear()
        timer = threading.Timer(seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if self._expired.is_set():
                raise EncryptionError(f"{self.url} did not finish its answer in {seconds:.0f} s; ask again later.")

    def _note_socket(self, event: str, details: dict[str, Any]) -> None:
        """Keep a second handle of each connection, as httpcore does not tell of it before the headers have come."""
        if event == "connection.connect_tcp.complete":
            self._sockets.append(details["return_value"].get_extra_info("socket").dup())
            if self._expired.is_set():
                self._give_up()

    def _give_up(self) -> None:
        self._expired.set()
        for line in list(self._sockets):
            with contextlib.suppress(OSError):  # it has ended already
                line.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _in_one_sentence(self) -> Iterator[None]:
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise EncryptionError(
                    f"The certificate of {self.url} is not to be trusted; check the address, or name the authority "
                    "that signed it (--ca)."
                ) from None
            raise EncryptionError(
                f"The diagnosis server at {self.url} cannot be reached ({type(error).__name__}); "
                "check the address and that it runs."
            ) from None


class _Busy(ServerRefusal):
    wait_s: float


def _pieces(body: bytes, on_sent: Callable[[], None] | None) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield body[start : start + _PIECE_BYTES]
    if on_sent is not None:
        on_sent()


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = httpx.URL(url).host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_url(url: str) -> str:
    """The address without a slash at the end.

    Raises:
        EncryptionError: it is no http(s) address, or plain http to another machine.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError, ValueError):
        parsed = httpx.URL("")
    named = _HOST.fullmatch(parsed.raw_host) and (parsed.port or 443) < 1 << 16
    if parsed.scheme not in ("http", "https") or not named or parsed.query or parsed.fragment or parsed.userinfo:
        raise EncryptionError("The server's address cannot be used; give one such as https://diagnosis.example:8443.")
    if parsed.scheme == "http" and not is_loopback(url):
        raise EncryptionError(
            f"{parsed.host} is another machine, and plain http would show it and everyone between the token; use https."
        )
    return url.rstrip("/")


def _refusal(answer: httpx.Response, content: bytes) -> ServerRefusal:
    status, wait = answer.status_code, answer.headers.get("retry-after", "")
    seconds = int(wait) if wait.isdecimal() and len(wait) < 7 else None
    sentence = f"The diagnosis server refused ({status}): {_said(content)}"
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        busy = _Busy(sentence, status=status)
        busy.wait_s = min(MOST_WAIT_S, 2.0 if seconds is None else seconds)
        return busy
    if status == httpx.codes.TOO_MANY_REQUESTS and seconds is not None:
        sentence = f"{sentence.rstrip('.')}; it may be asked again in {seconds} s."
    return ServerRefusal(sentence, status=status)


def _said(content: bytes) -> str:
    """The server's sentence, fit for a terminal: one line of printable characters."""
    try:
        said: Any = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    detail = said.get("detail") if isinstance(said, dict) else None
    if not isinstance(detail, str) or not detail.strip():
        return "it gave no reason; check the address."
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in detail).split())
    return line if len(line) <= _LONGEST_SENTENCE else line[:_LONGEST_SENTENCE] + "…"
