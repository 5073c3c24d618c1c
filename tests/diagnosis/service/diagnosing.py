"""A real service on a loopback port, and a clinic that speaks the wire format to it."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from primia.diagnosis.service.app import create_app
from primia.diagnosis.service.release import Release
from primia.diagnosis.service.run import server_config
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.service.tokens import Tokens
from primia.diagnosis.wire import (
    SIGNATURE_HEADER,
    Answer,
    Enrolment,
    ModelDescription,
    Question,
    decode,
    digest_of,
    encode,
    is_signed,
    sign,
)
from primia.encrypted.inputs import answer_logits

NAME = "chest"
QUICK = {"workers": 1, "poll_s": 0.1, "rate_per_s": 1000.0, "rate_burst": 1000, "daily_enrolments": 1000}


@dataclass
class Registry:
    """What is approved, as the registry would say; tests change it while the service runs."""

    release: Release | None = None
    error: Exception | None = None

    def __call__(self) -> Release | None:
        if self.error is not None:
            raise self.error
        return self.release


@dataclass
class Service:
    url: str
    app: Any
    server: uvicorn.Server
    state: Path
    registry: Registry
    log: Path
    http: httpx.Client

    def issue(self, name: str = "", *, daily: int = 100_000, days: float = 1.0) -> str:
        name = name or f"clinic {time.monotonic_ns()}"
        return Tokens(self.state / "tokens.json").add(name, daily=daily, days=days).text

    def metric(self, name: str) -> float:
        lines = self.http.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def events(self, event: str = "") -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if not event or line["event"] == event]

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.rsplit("/", 1)[1].split(":")
        return host, int(port)

    def worker_pids(self) -> tuple[int, ...]:
        pool = self.app.state.releases.pool()
        return pool.pids if pool else ()

    def change_limits(self, **changes: Any) -> None:
        """Other limits for what runs already, so that a test need not wait as long as a busy machine must be given."""
        releases = self.app.state.releases
        for part in (releases, releases.pool()):
            part._settings = part._settings.model_copy(update=changes)

    def serves(self, version: str | None) -> bool:
        model = self.http.get(f"{self.url}/healthz").json()["model"]
        return (model and model["version"]) == version


def wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 300
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@contextlib.contextmanager
def running(folder: Path, registry: Registry, **settings: Any) -> Iterator[Service]:
    """A service on a port of its own, in a thread; its workers are processes."""
    state, log = folder / "serving", folder / "events.jsonl"
    chosen = ServiceSettings(**{**QUICK, "log": log, **settings})
    app = create_app(registry, state=state, settings=chosen)
    with socket.socket() as listening, httpx.Client(timeout=300.0) as http:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(app, chosen))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        service = Service(f"http://127.0.0.1:{listening.getsockname()[1]}", app, server, state, registry, log, http)
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the server did not start")
            if registry.release is not None and registry.error is None:
                version = registry.release.version
                wait_until(
                    lambda: service.serves(version) or bool(service.events("release_refused")), "no model was loaded"
                )
            yield service
        finally:
            server.should_exit = True
            thread.join(300)
            assert not thread.is_alive()


@dataclass
class Clinic:
    """Keys, an identity and a token; every message it makes can be changed before it is sent."""

    service: Service
    small: Any
    token: str
    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def http(self) -> httpx.Client:
        return self.service.http

    @property
    def id(self) -> str:
        return self.token.split("_")[1]

    @property
    def public(self) -> str:
        return self.identity.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()

    def headers(self, **more: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}", **more}

    def enrolment(self, **changes: Any) -> bytes:
        fields = {
            "identity": self.public,
            "parameters": self.small.bundle.specification.parameters.digest(),
            "keys": self.small.key_bytes,
            "time": int(time.time()),
        }
        return encode(Enrolment(**(fields | changes)))

    def question(self, **changes: Any) -> bytes:
        fields = {
            "name": NAME,
            "model": self.small.bundle.specification.model_digest,
            "keys": digest_of(self.small.key_bytes),
            "nonce": os.urandom(16),
            "time": int(time.time()),
            "ciphertexts": [self.small.fresh],
        }
        return encode(Question(**(fields | changes)))

    def send(self, kind: Any, body: bytes, *, signature: str | None = None, **headers: str) -> httpx.Response:
        path = "/keys" if kind is Enrolment else f"/models/{NAME}/predict"
        signed = sign(self.identity, kind, body) if signature is None else signature
        all_headers = self.headers(**{SIGNATURE_HEADER: signed}, **headers)
        return self.http.post(f"{self.service.url}{path}", content=body, headers=all_headers)

    def enrol(self, **changes: Any) -> httpx.Response:
        return self.send(Enrolment, self.enrolment(**changes))

    def ask(self, **changes: Any) -> httpx.Response:
        return self.send(Question, self.question(**changes))

    def get(self, path: str) -> httpx.Response:
        return self.http.get(f"{self.service.url}{path}", headers=self.headers())

    def logits(self, answer: httpx.Response, body: bytes) -> np.ndarray:
        """The decrypted answer to `body`, whose signature and digest are checked."""
        assert answer.status_code == 200, answer.text
        assert is_signed(self.service.app.state.identity, Answer, answer.content, answer.headers[SIGNATURE_HEADER])
        said = decode(Answer, answer.content)
        assert said.question == digest_of(body)
        slots = self.small.engine.scheme.decrypt(said.ciphertext, self.small.secret)
        return answer_logits(slots, self.small.bundle.specification)

    def is_answered_rightly(self) -> bool:
        """One whole diagnosis, compared with the network in the clear."""
        body = self.question()
        logits = self.logits(self.send(Question, body), body)
        return bool(np.allclose(logits, expected_logits(self.small), atol=1e-2))


def description_of(answer: httpx.Response) -> ModelDescription:
    said = ModelDescription.model_validate_json(answer.content)
    assert is_signed(said.identity, ModelDescription, answer.content, answer.headers[SIGNATURE_HEADER])
    return said


def refusal(answer: httpx.Response, status: int) -> str:
    """The one sentence of a refusal."""
    assert answer.status_code == status, answer.text
    return sentence(answer.content)


def sentence(body: bytes) -> str:
    said = json.loads(body)
    assert set(said) == {"detail"}
    detail = said["detail"]
    assert detail.endswith(".")
    assert "\n" not in detail and "Traceback" not in detail and len(detail) < 400
    return detail


def expected_logits(small: Any) -> np.ndarray:
    return small.network(small.network.inputs(small.image[None]))[0].detach().numpy()


def answer_on(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the answer on a connection; status 0 if it ends without one."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65536):
            received += chunk
            if received.startswith(b"HTTP/1.1 100 "):  # "go on sending": the answer is still to come
                received = received.partition(b"\r\n\r\n")[2]
            head, found, body = bytes(received).partition(b"\r\n\r\n")
            lengths = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if found and lengths and len(body) >= lengths[0]:
                break
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    return (int(head.split(b" ")[1]) if head else 0), body
