"""Running the service: where it may listen, with which certificate, one at a time, until it is told to stop."""

import contextlib
import fcntl
import ipaddress
import os
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from primia.diagnosis.service.app import create_app
from primia.diagnosis.service.protocol import limited_protocol
from primia.diagnosis.service.release import Release
from primia.diagnosis.service.settings import ServiceSettings
from primia.errors import EncryptionError

_MOST_HEADER_BYTES = 16_384
_UNREAD_MS = 60_000


def run_service(
    releases: Callable[[], Release | None],
    *,
    state: Path,
    host: str,
    port: int,
    settings: ServiceSettings,
    certificate: Path | None = None,
    private_key: Path | None = None,
    on_listening: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; running requests are finished, then workers end.

    `on_listening` hears the service's fingerprint once nothing stands in its way any more.

    Raises:
        EncryptionError: another machine could reach a service without TLS, the certificate cannot be used, the port is
            taken, or another service uses `state`.
    """
    _check_tls(host, certificate, private_key)
    _allow_open_files()
    with _alone(state), _listening(host, port) as listening:
        app = create_app(releases, state=state, settings=settings)
        server = uvicorn.Server(server_config(app, settings, certificate=certificate, private_key=private_key))
        app.state.events.write("listening", host=host, port=listening.getsockname()[1])
        if on_listening is not None:
            on_listening(app.state.identity)
        with _until_a_signal():
            server.run(sockets=[listening])


def server_config(
    app: object, settings: ServiceSettings, *, certificate: Path | None = None, private_key: Path | None = None
) -> uvicorn.Config:
    """uvicorn with this service's limits."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=limited_protocol(settings),
        loop="primia.diagnosis.service.protocol:Loop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # an address is that of the connection, whatever a header says
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        timeout_keep_alive=max(1, round(settings.idle_s)),
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
        ssl_certfile=certificate,
        ssl_keyfile=private_key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )


def _check_tls(host: str, certificate: Path | None, private_key: Path | None) -> None:
    if (certificate is None) != (private_key is None):
        raise EncryptionError("TLS needs a certificate and its private key; name both files.")
    if certificate is None or private_key is None:
        if not _is_loopback(host):
            raise EncryptionError(
                f"{host} can be reached from other machines, and tokens would cross the network in the clear; "
                "name a certificate and its private key, or listen on 127.0.0.1."
            )
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, private_key, password=_no_password)
    except (OSError, ValueError) as error:
        raise EncryptionError(
            f"{certificate} and {private_key} are no certificate and its private key in PEM, without a passphrase; "
            "name those that belong together."
        ) from error


def _allow_open_files() -> None:
    """As many as this process may have: connections in a TLS handshake are counted by nobody before it ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _no_password() -> str:
    raise ValueError("a passphrase is asked for")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    if not 0 <= port < 65536:  # getaddrinfo would take the rest of a division
        raise EncryptionError(f"There is no port {port}; name one from 0 to 65535.")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise EncryptionError(f"{host} is no address of this machine; name another host.") from error
    with listening:
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # a client that does not read its answer is dropped
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
            listening.bind(address)
            listening.listen()
        except OSError as error:
            raise EncryptionError(f"Port {port} of {host} cannot be used; name another port.") from error
        yield listening


@contextlib.contextmanager
def _until_a_signal() -> Iterator[None]:
    """uvicorn raises the signal that stopped it once more when all is finished: here that is a normal end."""

    def end(_: int, __: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise EncryptionError(f"Another service uses {state}; stop it first, or choose another folder.") from error
    try:
        yield
    finally:
        os.close(descriptor)
