"""The service as a process: where it may listen, TLS, and a stop that lets running requests finish."""

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from diagnosing import NAME, Clinic, description_of, wait_until

from primia.diagnosis.service.run import run_service
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.service.tokens import Tokens
from primia.errors import EncryptionError


@dataclass
class Process:
    """A service in a process; enough of `diagnosing.Service` for a clinic."""

    popen: subprocess.Popen
    state: Path
    url: str
    http: httpx.Client


def events(state: Path, event: str) -> list[dict]:
    log = state / "events.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line for line in lines if line["event"] == event]


@contextlib.contextmanager
def process(state: Path, bundle: Path, *tls: Path) -> Iterator[Process]:
    script = str(Path(__file__).with_name("serve_folder.py"))
    command = [sys.executable, script, *map(str, (state, bundle, *tls))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as popen:
        try:
            wait_until(lambda: bool(events(state, "serving")) or popen.poll() is not None, "the service did not start")
            assert popen.poll() is None, popen.stderr.read()
            (listening,) = events(state, "listening")
            trust = ssl.create_default_context(cafile=tls[0]) if tls else True
            with httpx.Client(timeout=60.0, verify=trust) as http:
                url = f"{'https' if tls else 'http'}://127.0.0.1:{listening['port']}"
                yield Process(popen, state, url, http)
        finally:
            popen.kill()


def certificate_in(folder: Path, *, passphrase: bytes | None = None) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "primia test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    sealed = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    folder.mkdir(exist_ok=True)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed))
    return folder / "certificate.pem", folder / "key.pem"


def refused(
    tmp_path: Path, host: str, *, port: int = 0, certificate: Path | None = None, key: Path | None = None
) -> str:
    with pytest.raises(EncryptionError) as caught:
        run_service(
            lambda: None,
            state=tmp_path / "serving",
            host=host,
            port=port,
            settings=ServiceSettings(),
            certificate=certificate,
            private_key=key,
        )
    return str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "diagnosis.example"])
def test_other_machines_are_served_over_tls_only(tmp_path, host) -> None:
    assert "tokens would cross the network in the clear" in refused(tmp_path, host)


def test_a_certificate_that_cannot_be_used_is_said(tmp_path) -> None:
    certificate, key = certificate_in(tmp_path / "a")
    _, other = certificate_in(tmp_path / "b")
    _, sealed = certificate_in(tmp_path / "c", passphrase=b"secret")
    assert "name both files" in refused(tmp_path, "127.0.0.1", certificate=certificate)
    for wrong in (other, sealed, tmp_path / "missing.pem", certificate):
        assert "belong together" in refused(tmp_path, "127.0.0.1", certificate=certificate, key=wrong)
    assert key.exists()


def test_a_port_or_host_that_cannot_be_used_is_said(tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "name another port" in refused(tmp_path, "127.0.0.1", port=taken.getsockname()[1])
    assert "from 0 to 65535" in refused(tmp_path, "127.0.0.1", port=70_000)


@pytest.mark.system
def test_a_stopped_service_finishes_what_runs_and_leaves_no_worker(small, release_of, tmp_path) -> None:
    state = tmp_path / "serving"
    with process(state, release_of(small.bundle).folder) as service:
        clinic = Clinic(service, small, Tokens(state / "tokens.json").add("clinic", daily=9, days=1).text)
        assert clinic.enrol().status_code == 201
        (worker,) = psutil.Process(service.popen.pid).children()
        worker.suspend()
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(clinic.ask)
            wait_until(
                lambda: "primia_workers_busy 1.0" in httpx.get(f"{service.url}/metrics").text,
                "the request did not begin",
            )
            service.popen.send_signal(signal.SIGTERM)
            wait_until(lambda: refuses_connections(service.url), "it still takes connections")
            assert not asked.done()
            worker.resume()
            assert asked.result().status_code == 200
        out, err = service.popen.communicate(timeout=60)
        assert (service.popen.returncode, out, err) == (0, "ended well\n", "")
        assert not worker.is_running()
    assert events(state, "stopped")
    assert not (state / "releases" / "1").exists()


def refuses_connections(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz")
    except httpx.ConnectError:
        return True
    except httpx.RemoteProtocolError:  # let in just before, and not answered any more
        return False
    return False


@pytest.mark.system
def test_a_killed_service_takes_its_workers_along(small, release_of, tmp_path) -> None:
    with process(tmp_path / "serving", release_of(small.bundle).folder) as service:
        (worker,) = psutil.Process(service.popen.pid).children()
        os.kill(service.popen.pid, signal.SIGKILL)
        wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "the worker stayed")


@pytest.mark.system
def test_two_services_do_not_share_a_state(small, release_of, tmp_path) -> None:
    with process(tmp_path / "serving", release_of(small.bundle).folder):
        assert "Another service uses" in refused(tmp_path, "127.0.0.1")


@pytest.mark.system
def test_tls_is_spoken_with_a_certificate_and_nothing_else(small, release_of, tmp_path) -> None:
    state, tls = tmp_path / "serving", certificate_in(tmp_path / "tls")
    with process(state, release_of(small.bundle).folder, *tls) as service:
        clinic = Clinic(service, small, Tokens(state / "tokens.json").add("clinic", daily=9, days=1).text)
        assert description_of(clinic.get(f"/models/{NAME}")).version == "1"
        assert clinic.enrol().status_code == 201
        assert clinic.ask().status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(service.url.replace("https", "http") + "/healthz")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(service.url + "/healthz")
