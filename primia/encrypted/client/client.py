"""The diagnosing client: holder of the secret key, the image and the answer."""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import numpy as np

from primia.encrypted.ckks import Scheme
from primia.encrypted.inputs import answer_logits, image_slots
from primia.encrypted.packing import Floats
from primia.encrypted.parameters import Parameters, Specification, parse_specification
from primia.errors import EncryptionError
from primia.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

SECRET_FILE = "secret.key"  # noqa: S105 - a name
PUBLIC_FILE = "evaluation.keys"
PARAMETERS_FILE = "parameters.json"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Diagnosis:
    """Probabilities by class, seconds by step (encrypt, server, decrypt) and bytes by direction (upload, reply)."""

    probabilities: dict[str, float]
    seconds: dict[str, float]
    bytes: dict[str, int]


class Client:
    """Keys in a folder of their own; they serve every model whose encryption parameters are the same.

    `server` is a URL or an `httpx.Client` whose base URL is set. Neither the secret key nor anything decrypted is ever
    sent. Use https for a server that is not on this machine: encryption hides the image, it does not protect the
    answer from being replaced on the way.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder written by `keygen`.

        Raises:
            EncryptionError: the keys are missing, damaged, or readable by other users.
        """
        self.folder = folder
        try:
            secret = (folder / SECRET_FILE).read_bytes()
            self._evaluation_keys = (folder / PUBLIC_FILE).read_bytes()
            parameters = (folder / PARAMETERS_FILE).read_bytes()
            mode = (folder / SECRET_FILE).stat().st_mode
        except OSError as error:
            raise EncryptionError(f"{folder} holds no complete set of keys; make one with keygen.") from error
        if mode & 0o077:
            raise EncryptionError(
                f"{folder / SECRET_FILE} can be read by other users of this machine; "
                "run chmod 600 on it, or make new keys with keygen."
            )
        try:
            self.scheme = Scheme(Parameters.model_validate_json(parameters))
        except ValueError as error:
            raise EncryptionError(f"{folder / PARAMETERS_FILE} is damaged; make new keys with keygen.") from error
        self._secret = self.scheme.load_secret(secret)

    @classmethod
    def keygen(cls, folder: Path, server: str | httpx.Client) -> Self:
        """Make a secret key (mode 0600) and, in a file apart, evaluation keys for the server's parameters.

        Raises:
            EncryptionError: the folder already holds a secret key, or the server gives no usable parameters.
        """
        if (folder / SECRET_FILE).exists():
            raise EncryptionError(f"{folder} already holds a secret key; choose another folder or remove that one.")
        parameters = fetch_specification(server).parameters
        secret, evaluation_keys = Scheme(parameters).generate_keys()
        write_bytes(folder / PARAMETERS_FILE, parameters.model_dump_json().encode())
        write_bytes(folder / PUBLIC_FILE, evaluation_keys)
        write_bytes(folder / SECRET_FILE, secret, mode=0o600)
        return cls(folder)

    @property
    def key_digest(self) -> str:
        """SHA-256 of the evaluation keys, the name under which a server keeps them."""
        return hashlib.sha256(self._evaluation_keys).hexdigest()

    @property
    def key_bytes(self) -> int:
        """Size of the evaluation keys, uploaded once."""
        return len(self._evaluation_keys)

    def enrol(self, server: str | httpx.Client) -> str:
        """Upload the evaluation keys; returns the name under which the server keeps them."""
        with _session(server) as session:
            answer = _asked(session, "POST", "/keys", content=self._evaluation_keys)
        name = answer.json().get("keys")
        if name != self.key_digest:
            raise EncryptionError("The server filed the evaluation keys under another digest; enrol again.")
        return self.key_digest

    def encrypt_image(self, image: "Path | Tensor", specification: Specification) -> bytes:
        """Preprocess, shrink, standardise, pack and encrypt an image file, or a tensor (1, p, p) in [0, 1]."""
        self._check_parameters(specification)
        (slots,) = image_slots(image, specification)
        return self.scheme.encrypt(slots, self._secret)

    def decrypt(self, answer: bytes, specification: Specification) -> Floats:
        """The logits (classes,) in an encrypted answer."""
        return answer_logits(self.scheme.decrypt(answer, self._secret), specification)

    def diagnose(self, image: "Path | Tensor", server: str | httpx.Client) -> Diagnosis:
        """Ask a server about an image it cannot see; enrols first if the server does not know the keys.

        Raises:
            EncryptionError: the server refuses, cannot be reached, or asks for other parameters than the keys have.
        """
        with _session(server) as session:
            specification = fetch_specification(session)
            started = time.perf_counter()
            upload = self.encrypt_image(image, specification)
            encrypted = time.perf_counter()
            path = f"/predict?keys={self.key_digest}"
            answer = _asked(session, "POST", path, content=upload, allow_unknown_keys=True)
            if answer.status_code == httpx.codes.NOT_FOUND:
                self.enrol(session)
                encrypted = time.perf_counter()
                answer = _asked(session, "POST", path, content=upload)
            answered = time.perf_counter()
        logits = self.decrypt(answer.content, specification)
        finished = time.perf_counter()
        return Diagnosis(
            probabilities=dict(zip(specification.classes, _softmax(logits), strict=True)),
            seconds={"encrypt": encrypted - started, "server": answered - encrypted, "decrypt": finished - answered},
            bytes={"upload": len(upload), "reply": len(answer.content)},
        )

    def _check_parameters(self, specification: Specification) -> None:
        if specification.parameters != self.scheme.parameters:
            raise EncryptionError(
                f"The server's model uses other encryption parameters than the keys in {self.folder}; "
                "run keygen for this server into a new folder."
            )


def fetch_specification(server: str | httpx.Client) -> Specification:
    """What a server says of its model; see `Specification`."""
    with _session(server) as session:
        return parse_specification(_asked(session, "GET", "/model").content, where=str(session.base_url))


def _softmax(logits: Floats) -> list[float]:
    weights = np.exp(logits - logits.max())
    return [float(value) for value in weights / weights.sum()]


@contextlib.contextmanager
def _session(server: str | httpx.Client) -> Iterator[httpx.Client]:
    if isinstance(server, httpx.Client):
        yield server
    else:
        with httpx.Client(base_url=server, timeout=TIMEOUT_S) as session:
            yield session


def _asked(
    session: httpx.Client, method: str, path: str, *, content: bytes | None = None, allow_unknown_keys: bool = False
) -> httpx.Response:
    headers = {"content-type": "application/octet-stream"} if content is not None else None
    try:
        answer = session.request(method, path, content=content, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EncryptionError(
            f"The diagnosis server at {session.base_url} cannot be reached ({type(error).__name__}); "
            "check the address and that it runs."
        ) from error
    if answer.is_success or (allow_unknown_keys and answer.status_code == httpx.codes.NOT_FOUND):
        return answer
    raise EncryptionError(f"The diagnosis server refused ({answer.status_code}): {_detail(answer)}")


def _detail(answer: httpx.Response) -> str:
    try:
        said: Any = answer.json()
    except ValueError:
        return "it gave no reason; check the address."
    return str(said.get("detail", said)) if isinstance(said, dict) else str(said)
