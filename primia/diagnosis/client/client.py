"""The diagnosing client: holder of the secret key, the image and the answer."""

import contextlib
import hmac
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from primia.diagnosis.client.connection import Connection, Reply, ServerRefusal
from primia.diagnosis.client.described import Described, described, introduced, model_name, public_key
from primia.diagnosis.client.diagnosis import Diagnosis, OnStep, Steps, server_seconds, softmax
from primia.diagnosis.client.keyring import Keyring, Server, checked_token, refuse_existing
from primia.diagnosis.client.picture import picture
from primia.diagnosis.wire import Answer, Enrolment, ModelDescription, Question, decode, encode, is_signed, sign
from primia.encrypted.inputs import answer_logits, image_slots
from primia.encrypted.parameters import Specification
from primia.errors import EncryptionError

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_MODEL = "primia-chest"
_UNKNOWN, _CONFLICT = 404, 409


class Client:
    """Keys in a folder of their own, for one server and every model with the same encryption parameters.

    Neither the secret key nor anything decrypted is ever sent. Everything the server says is checked: the description
    of the model and each answer carry the signature of the key that was pinned when the client's keys were made.
    """

    def __init__(
        self, folder: Path, passphrase: str | None = None, *, server: str | None = None, token: str | None = None
    ) -> None:
        """Open a folder written by `keygen`; `server` and `token` take the place of those in it.

        Raises:
            EncryptionError: the keys are missing, damaged, or open to other users, or the passphrase is wrong.
        """
        self.folder = folder
        self._ring = Keyring.open(folder, passphrase, token=token)
        self._url = server or self._ring.server.url

    @classmethod
    def keygen(
        cls,
        folder: Path,
        server: str,
        *,
        token: str,
        passphrase: str | None = None,
        fingerprint: str | None = None,
        ca: Path | None = None,
        model: str | None = None,
        on_step: OnStep | None = None,
    ) -> Self:
        """Ask the server for its model's parameters, and make a secret key and evaluation keys that fit them.

        Args:
            folder: empty or not there yet.
            server: https address; http on this machine only.
            token: as the server's operator gave it out.
            passphrase: encrypts the secret key and the signing key on the disk.
            fingerprint: the server's public key, in hexadecimal; without it, the key seen now is trusted from now on.
            ca: certificates (PEM) to check the server's with, instead of the system's.
            model: name of the model; `DEFAULT_MODEL` if not given.
            on_step: hears of the steps ask and generate.

        Raises:
            EncryptionError: the folder holds something, the server cannot be reached, refuses or is another one.
        """
        refuse_existing(folder)
        steps, name = Steps(on_step), model_name(model or DEFAULT_MODEL)
        expected = None if fingerprint is None else public_key(fingerprint)
        with (
            Connection(server, token=checked_token(token), authority=ca) as connection,
            steps.step("ask") as sized,
        ):
            heard = described(connection, name, identity=introduced(connection, expected))
            description, sized.bytes, url = heard.description, heard.bytes, connection.url
        with steps.step("generate") as sized:
            Keyring.create(
                folder,
                parameters=description.specification.parameters,
                server=Server(url=url, identity=description.identity, model=name),
                token=token,
                passphrase=passphrase,
                authority=None if ca is None else ca.read_bytes(),
            )
            client = cls(folder, passphrase)
            sized.bytes = client.key_bytes
        return client

    @property
    def fingerprint(self) -> str:
        """The pinned public key of the server, in hexadecimal."""
        return self._ring.server.identity

    @property
    def server(self) -> str:
        """The server's address."""
        return self._url

    @property
    def key_digest(self) -> str:
        """SHA-256 of the evaluation keys, the name under which a server keeps them."""
        return self._ring.digest

    @property
    def key_bytes(self) -> int:
        """Size of the evaluation keys, uploaded once."""
        return len(self._ring.evaluation_keys)

    def keep_token(self) -> None:
        """Write the token that this client was given into its folder."""
        self._ring.keep_token(self._ring.token)

    def describe(self, model: str | None = None) -> ModelDescription:
        """What the server says of a model, its signature checked."""
        with self._connection() as connection:
            return self._described(connection, model).description

    def enrol(self) -> str:
        """Upload the evaluation keys; returns the name under which the server keeps them."""
        with self._connection() as connection:
            self._enrol(connection, Steps())
        return self.key_digest

    def diagnose(self, image: "Path | Tensor", *, model: str | None = None, on_step: OnStep | None = None) -> Diagnosis:
        """Ask the server about an image it cannot see; enrols first if the server does not know the keys.

        Args:
            image: a PNG, JPEG or DICOM file, or a preprocessed tensor (1, p, p) in [0, 1].
            model: another name than the one given to `keygen`.
            on_step: hears of each step as it begins, with {}, and as it is done, with {"seconds", "bytes"}; see
                `Diagnosis`.

        Raises:
            DataError: the file is no usable image.
            EncryptionError: the server refuses, cannot be reached, asks for other parameters than the keys have, or
                gives an answer that is not signed, or to another question.
        """
        steps = Steps(on_step)
        with self._connection() as connection:
            heard = self._described(connection, model)
            ciphertexts = self._encrypted(image, heard.description.specification, steps)
            try:
                reply = self._asked(connection, heard.description, ciphertexts, steps)
            except ServerRefusal as refusal:
                if refusal.status not in (_UNKNOWN, _CONFLICT):
                    raise
                before, heard = heard, self._described(connection, model)  # a model withdrawn ends here
                if heard.description.specification != before.description.specification:
                    ciphertexts = self._encrypted(image, heard.description.specification, steps)
                elif refusal.status == _CONFLICT:
                    raise
                if refusal.status == _UNKNOWN:
                    self._enrol(connection, steps)
                reply = self._asked(connection, heard.description, ciphertexts, steps)
            answer = self._checked(reply, heard.description.specification)
            if answer.description != heard.digest:  # other marks, perhaps: what is shown must be what holds now
                before, heard = heard, self._described(connection, model)
                unchanged = heard.description.specification == before.description.specification
                if answer.description != heard.digest or not unchanged:
                    raise EncryptionError("The answer is under another description than the model's; ask again.")
        return self._read(reply, answer, heard.description, steps)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A server that has proven the pinned identity; one that does not is not sent the token."""
        with Connection(self._url, token=self._ring.token, authority=self._ring.authority) as connection:
            introduced(connection, self._ring.server.identity)
            yield connection

    def _described(self, connection: Connection, model: str | None) -> Described:
        name = model_name(model or self._ring.server.model)
        heard = described(connection, name, identity=self._ring.server.identity)
        if heard.description.specification.parameters != self._ring.scheme.parameters:
            raise EncryptionError(
                f"The server's model uses other encryption parameters than the keys in {self.folder}; "
                "run keygen for this server into a new folder."
            )
        return heard

    def _encrypted(self, image: "Path | Tensor", said: Specification, steps: Steps) -> list[bytes]:
        with steps.step("preprocess") as sized:
            tensor = picture(image, pixels=said.pipeline_pixels) if isinstance(image, Path) else image
            slots = image_slots(tensor, said)
            sized.bytes = slots.nbytes
        with steps.step("encrypt") as sized:
            ciphertexts = [self._ring.scheme.encrypt(row, self._ring.secret) for row in slots]
            sized.bytes = sum(map(len, ciphertexts))
        return ciphertexts

    def _enrol(self, connection: Connection, steps: Steps) -> None:
        def make() -> tuple[bytes, str]:
            return self._signed(
                Enrolment(
                    identity=self._ring.public,
                    parameters=self._ring.scheme.parameters.digest(),
                    keys=self._ring.evaluation_keys,
                    time=int(time.time()),
                )
            )

        with steps.step("enrol") as sized:
            reply = connection.post("/keys", make, most=4096)
            sized.bytes = reply.sent_bytes
        if self.key_digest.encode() not in reply.body:
            raise EncryptionError("The server filed the evaluation keys under another digest; enrol again.")

    def _asked(
        self, connection: Connection, description: ModelDescription, ciphertexts: list[bytes], steps: Steps
    ) -> Reply:
        def make() -> tuple[bytes, str]:
            return self._signed(
                Question(
                    name=description.name,
                    model=description.specification.model_digest,
                    keys=self.key_digest,
                    nonce=secrets.token_bytes(16),
                    time=int(time.time()),
                    ciphertexts=ciphertexts,
                )
            )

        steps.begun("send")
        return connection.post(
            f"/models/{description.name}/predict",
            make,
            most=description.specification.parameters.most_ciphertext_bytes + 4096,
            on_sent=lambda: steps.begun("compute"),
        )

    def _signed(self, message: Enrolment | Question) -> tuple[bytes, str]:
        body = encode(message)
        return body, sign(self._ring.identity, type(message), body)

    def _checked(self, reply: Reply, said: Specification) -> Answer:
        """Check who answered what; nothing is decrypted before."""
        if not is_signed(self._ring.server.identity, Answer, reply.body, reply.signature):
            raise EncryptionError(
                "The answer does not carry the server's signature, so it may have been changed on the way; "
                "ask again, and tell the server's operator if it stays so."
            )
        answer = decode(Answer, reply.body)
        if not hmac.compare_digest(answer.question, reply.sent):
            raise EncryptionError("The answer is to another question than the one asked; ask again.")
        if answer.model != said.model_digest:
            raise EncryptionError("The answer is of another model than the one asked; ask again.")
        return answer

    def _read(self, reply: Reply, answer: Answer, description: ModelDescription, steps: Steps) -> Diagnosis:
        said = description.specification
        computed = min(server_seconds(reply.timing), reply.seconds)
        steps.done("send", seconds=reply.seconds - computed, size=reply.sent_bytes)
        steps.done("compute", seconds=computed, size=len(reply.body))
        with steps.step("decrypt") as sized:
            logits = answer_logits(self._ring.scheme.decrypt(answer.ciphertext, self._ring.secret), said)
            sized.bytes = logits.nbytes
        return Diagnosis(
            probabilities=dict(zip(said.classes, softmax(logits), strict=True)),
            seconds=steps.seconds,
            bytes=steps.bytes,
            model=description.name,
            version=description.version,
            marks=description.marks,
            model_digest=said.model_digest,
        )
