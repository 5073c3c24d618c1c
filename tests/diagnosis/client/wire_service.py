"""A diagnosis service as small as the wire format allows, honest unless a test makes it lie.

It evaluates really encrypted questions with the real engine; what the real service adds (limits, a pool, a registry)
its own tests look at.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from primia.diagnosis.wire import (
    Answer,
    Enrolment,
    ModelDescription,
    Question,
    decode,
    digest_of,
    encode,
    is_signed,
    sign_identity,
)
from primia.diagnosis.wire import sign as signed
from primia.encrypted.bundle import Bundle
from primia.encrypted.ckks import EvaluationKeys
from primia.encrypted.engine import Engine
from primia.errors import EncryptionError

TOKEN = "primia_0123abcd_" + "5e" * 32


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def public_of(private: Ed25519PrivateKey) -> str:
    return private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


@dataclass
class WireService:
    """`lie` gets the route's name, the request's body and the honest response, and returns what is sent instead."""

    bundle: Bundle
    engine: Engine
    identity: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    name: str = "primia-chest"
    version: str = "7"
    marks: str | None = "unfit for patients"
    url: str = ""
    enrolled: dict[str, Enrolment] = field(default_factory=dict)
    parsed: dict[str, EvaluationKeys] = field(default_factory=dict)
    nonces: set[bytes] = field(default_factory=set)
    seen: list[Seen] = field(default_factory=list)
    lie: Callable[[str, bytes, Response], Response] = lambda route, body, honest: honest
    greetings: list[dict[str, str]] = field(default_factory=list)  # headers of who asked for the proof of identity
    prove: Callable[[str], dict[str, str]] | None = None  # instead of the honest proof

    def reset(self) -> None:
        self.enrolled.clear()
        self.seen.clear()
        self.greetings.clear()
        self.prove = None
        self.lie = lambda route, body, honest: honest
        self.marks = "unfit for patients"

    @property
    def fingerprint(self) -> str:
        return public_of(self.identity)

    def description(self, **changed: object) -> ModelDescription:
        said = ModelDescription(
            name=self.name,
            version=self.version,
            marks=self.marks,
            identity=self.fingerprint,
            specification=self.bundle.specification,
        )
        return said.model_copy(update=changed)

    def described(self, **changed: object) -> Response:
        return self.signed_by(self.identity, ModelDescription, self.description(**changed).model_dump_json().encode())

    def answered(self, **changed: object) -> Response:
        return self.signed_by(self.identity, Answer, encode(Answer(**changed)))

    def signed_by(self, private: Ed25519PrivateKey, kind: type, body: bytes) -> Response:
        headers = {"primia-signature": signed(private, kind, body), "server-timing": "queue;dur=2.5, evaluate;dur=40"}
        return Response(body, headers=headers, media_type="application/octet-stream")

    def application(self) -> Starlette:
        def route(path: str, method: str, name: str, answer: Callable[[Request, bytes], Response]) -> Route:
            async def endpoint(request: Request) -> Response:
                body = await request.body()
                self.seen.append(Seen(method, request.url.path, dict(request.headers), body))
                if request.headers.get("authorization") != f"Bearer {TOKEN}":
                    return refusal(401, "The token is not known here; ask the operator for another.")
                try:
                    honest = answer(request, body)
                except EncryptionError as error:
                    honest = refusal(422, str(error))
                return self.lie(name, body, honest)

            return Route(path, endpoint, methods=[method])

        return Starlette(
            routes=[
                Route("/identity", self._introduce),
                route("/models/{name}", "GET", "describe", self._describe),
                route("/keys", "POST", "enrol", self._enrol),
                route("/models/{name}/predict", "POST", "predict", self._predict),
            ]
        )

    async def _introduce(self, request: Request) -> Response:
        self.greetings.append(dict(request.headers))
        nonce = request.query_params["nonce"]
        honest = {"identity": self.fingerprint, "signature": sign_identity(self.identity, nonce)}
        return JSONResponse(self.prove(nonce) if self.prove else honest)

    def _describe(self, request: Request, _: bytes) -> Response:
        if request.path_params["name"] != self.name:
            return refusal(404, "No approved model has that name.")
        return self.described()

    def _enrol(self, request: Request, body: bytes) -> Response:
        enrolment = decode(Enrolment, body)
        if not is_signed(enrolment.identity, Enrolment, body, request.headers.get("primia-signature")):
            return refusal(422, "The enrolment is not signed by the identity in it; sign it.")
        if enrolment.parameters != self.bundle.specification.parameters.digest():
            return refusal(422, "The keys are for other parameters; run keygen again.")
        self._parsed(enrolment)
        self.enrolled[digest_of(enrolment.keys)] = enrolment
        return JSONResponse({"keys": digest_of(enrolment.keys), "expire_s": 3600.0}, status_code=201)

    def _predict(self, request: Request, body: bytes) -> Response:
        question = decode(Question, body)
        if question.keys not in self.enrolled:
            return refusal(404, "These keys are not known here; enrol them.")
        enrolment = self.enrolled[question.keys]
        if not is_signed(enrolment.identity, Question, body, request.headers.get("primia-signature")):
            return refusal(422, "The question is not signed by the identity that enrolled; sign it.")
        if question.nonce in self.nonces or abs(question.time - time.time()) > 300:
            return refusal(409, "The question was asked before, or the clocks differ; set the clock.")
        if question.model != self.bundle.specification.model_digest:
            return refusal(409, "The model is no longer the approved one; ask for the model again.")
        self.nonces.add(question.nonce)
        ciphertext = self.engine.evaluate(question.ciphertexts, self._parsed(enrolment))
        described = digest_of(self.described().body)
        return self.answered(
            question=digest_of(body), model=question.model, description=described, ciphertext=ciphertext
        )

    def _parsed(self, enrolment: Enrolment) -> EvaluationKeys:
        name = digest_of(enrolment.keys)
        if name not in self.parsed:
            self.parsed[name] = self.engine.scheme.load_keys(enrolment.keys)
        return self.parsed[name]


def refusal(status: int, sentence: str, **headers: str) -> Response:
    return JSONResponse(
        {"detail": sentence}, status_code=status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


@contextmanager
def serving(application, **settings) -> Iterator[int]:
    """A real HTTP server on a loopback port, which is given."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application, log_level="critical", ws="none", **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
        assert not thread.is_alive()
