"""Whom the client talks to, and what others on the way can see of it."""

import contextlib
import datetime
import ipaddress
import socket
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.responses import Response
from wire_service import TOKEN, serving

from primia.diagnosis.client.client import Client
from primia.diagnosis.client.connection import Connection, checked_url, is_loopback
from primia.errors import EncryptionError


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8443", "http://localhost/", "http://[::1]:80", "https://hospital.example/x"]
)
def test_plain_http_is_for_this_machine_and_https_for_any(url) -> None:
    assert checked_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "http://hospital.example",
        "http://10.0.0.1:80",
        "http://0.0.0.0",
        "http://127.0.0.1.example",
        "http://localhost.example",
    ],
)
def test_plain_http_to_another_machine_is_refused(url) -> None:
    assert not is_loopback(url)
    with pytest.raises(EncryptionError, match="is another machine, and plain http would show"):
        checked_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hospital",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "https://",
        "https://u:p@h",
        "https://h?x=1",
        "https://h#x",
        "http://[",
        "https://h:99999999",
    ],
)
def test_what_is_no_address_is_refused(url) -> None:
    with pytest.raises(EncryptionError, match="server's address cannot be used; give one such as"):
        checked_url(url)


@pytest.mark.system
def test_a_proxy_of_the_environment_does_not_see_what_stays_on_this_machine(service, tmp_path, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert Client.keygen(tmp_path / "keys", service.url, token=TOKEN).fingerprint == service.fingerprint
        with pytest.raises(TimeoutError):
            proxy.accept()


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a hospital")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


@pytest.mark.system
def test_a_certificate_is_checked_with_the_authority_that_was_given_once(small, running, service, tmp_path) -> None:
    authority, key = certificate(tmp_path)
    with serving(running.application(), ssl_certfile=str(authority), ssl_keyfile=str(key)) as port:
        url = f"https://127.0.0.1:{port}"
        with pytest.raises(EncryptionError, match=r"certificate of .* is not to be trusted"):
            Client.keygen(tmp_path / "keys", url, token=TOKEN)
        assert service.seen == []  # the token was not sent
        Client.keygen(tmp_path / "keys", url, token=TOKEN, ca=authority)
        authority.unlink()  # the folder has a copy
        assert Client(tmp_path / "keys").diagnose(small.image).probabilities


def test_a_file_that_holds_no_certificates_is_named(tmp_path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(EncryptionError, match=rf"{name} holds no certificates"):
            Connection("https://127.0.0.1:9", token=TOKEN, authority=tmp_path / name)


@pytest.mark.system
def test_a_server_that_drips_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr("primia.diagnosis.client.connection.DEADLINE_S", 0.3)

    async def dripping(scope, receive, send):
        import asyncio

        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(20):
            await asyncio.sleep(0.05)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    with (
        serving(dripping, lifespan="off") as port,
        Connection(f"http://127.0.0.1:{port}", token=TOKEN) as connection,
        pytest.raises(EncryptionError, match="did not finish its answer"),
    ):
        connection.get("/", most=1000)


@pytest.mark.system
def test_a_server_whose_headers_drip_is_given_up(monkeypatch) -> None:
    monkeypatch.setattr("primia.diagnosis.client.connection.DEADLINE_S", 0.3)
    ended = threading.Event()

    def drip(listening: socket.socket) -> None:
        line, _ = listening.accept()
        with line, contextlib.suppress(OSError):
            line.sendall(b"HTTP/1.1 200 OK\r\nx: ")
            while not ended.wait(0.05):
                line.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=[listening])
        thread.start()
        try:
            with (
                Connection(f"http://127.0.0.1:{listening.getsockname()[1]}", token=TOKEN) as connection,
                pytest.raises(EncryptionError, match="did not finish its answer"),
            ):
                connection.get("/", most=1000)
        finally:
            ended.set()
            thread.join()


@pytest.mark.system
def test_a_server_that_breaks_off_is_said() -> None:
    async def breaking(scope, receive, send):
        await Response(b"x" * 10, headers={"content-length": "1000"})(scope, receive, send)

    with (
        serving(breaking, lifespan="off") as port,
        Connection(f"http://127.0.0.1:{port}", token=TOKEN) as connection,
        pytest.raises(EncryptionError, match=r"cannot be reached \(RemoteProtocolError\)"),
    ):
        connection.get("/", most=1000)


@pytest.mark.system
def test_the_token_goes_into_no_sentence(small, service, client) -> None:
    for url in ("http://127.0.0.1:9", service.url + "/elsewhere"):
        with pytest.raises(EncryptionError) as caught:
            Client(client.folder, server=url).diagnose(small.image)
        assert TOKEN not in str(caught.value) and TOKEN[-64:] not in repr(caught.value.__cause__)
