"""The two requests that carry a message: keys that are enrolled, and questions that are answered."""

import asyncio
import time
from dataclasses import dataclass
from typing import TypeVar

from primia.diagnosis.service.identity import Identity
from primia.diagnosis.service.key_store import KeyStore, StoredKeys
from primia.diagnosis.service.metrics import Metrics
from primia.diagnosis.service.pool import Done
from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.release import Served
from primia.diagnosis.service.settings import ServiceSettings
from primia.diagnosis.service.tokens import Token
from primia.diagnosis.service.usage import Usage
from primia.diagnosis.wire import Answer, Enrolment, Question, decode, digest_of, encode, is_signed, sign
from primia.encrypted.parameters import Specification

M = TypeVar("M", Enrolment, Question)


@dataclass(frozen=True)
class Answered:
    """The body of an answer, its signature, and the seconds it waited and took."""

    body: bytes
    signature: str
    done: Done


class Desk:
    """Takes messages of clients whose token was checked, and whose bodies were read within their limits."""

    def __init__(
        self, *, keys: KeyStore, usage: Usage, identity: Identity, settings: ServiceSettings, metrics: Metrics
    ) -> None:
        self._keys, self._usage, self._identity = keys, usage, identity
        self._settings, self._metrics = settings, metrics

    async def enrol(self, token: Token, served: Served, body: bytes, signature: str | None) -> str:
        """Check keys in a worker, keep them, and give their SHA-256.

        Raises:
            Refusal: the message, its signature, its time or the keys are not right, or there is no room for them.
        """
        # Counted first: reading millions of bytes that turn out to be nothing costs the service as much.
        await asyncio.to_thread(self._usage.take_enrolment, token.id, most=self._settings.daily_enrolments)
        message, digest = await asyncio.to_thread(_read_enrolment, body, signature)
        self._check_time(message.time)
        if message.parameters != served.specification.parameters.digest():
            raise Refusal(
                422, "The keys were made for other encryption parameters; ask for the model and make keys for it."
            )
        label = {"identity": message.identity, "parameters": message.parameters}
        known = self._keys.find(token.id, digest)
        if known is not None and known.parameters == message.parameters:
            if known.identity != message.identity:
                await asyncio.to_thread(self._keys.label, known.path, **label)
                if not self._keys.relabel(token.id, digest, identity=message.identity):
                    raise Refusal(503, "These keys were pushed out by newer ones; enrol them again.", retry_after=1)
            return digest
        path = self._keys.reserve(token.id, digest, len(message.keys))
        try:
            await asyncio.to_thread(self._keys.write, path, message.keys)
            del message
            await asyncio.wrap_future(served.pool.submit("check", path))
            await asyncio.to_thread(self._keys.label, path, **label)
        except BaseException:
            self._keys.release(token.id, digest)
            raise
        self._keys.keep(token.id, digest, **label)
        return digest

    async def answer(self, token: Token, served: Served, name: str, body: bytes, signature: str | None) -> Answered:
        """Evaluate a question that is the client's own, fresh, and about the model that is served.

        Raises:
            Refusal: it is not, or could not be answered.
        """
        message = await asyncio.to_thread(decode, Question, body)
        keys = self._keys_of(token, message, served.specification)
        asked = await asyncio.to_thread(_signed_digest, keys.identity, body, signature)
        self._check_question(message, name, served.specification)
        self._check_time(message.time)
        await asyncio.to_thread(
            self._usage.take_question,
            token.id,
            message.nonce,
            most=token.daily,
            until=message.time + self._settings.clock_s + 60.0,
        )
        try:
            done = await asyncio.wrap_future(served.pool.submit("evaluate", keys.path, message.ciphertexts))
        except Refusal as refusal:
            if refusal.status in (404, 409, 503):  # nothing came of it, and not for the question's sake
                await asyncio.to_thread(self._usage.give_back_question, token.id, message.nonce)
            raise
        self._metrics.queue.observe(done.queue_s)
        self._metrics.evaluate.observe(done.evaluate_s)
        said = Answer(
            question=asked, model=message.model, description=digest_of(served.description), ciphertext=done.answer
        )
        answer = encode(said)
        return Answered(answer, sign(self._identity.private, Answer, answer), done)

    def _keys_of(self, token: Token, message: Question, specification: Specification) -> StoredKeys:
        """The client's keys; for another client's token the same keys do not exist."""
        keys = self._keys.find(token.id, message.keys)
        if keys is None or keys.parameters != specification.parameters.digest():
            raise Refusal(404, "These keys are not known here, or no longer; enrol them again.")
        return keys

    def _check_question(self, message: Question, name: str, specification: Specification) -> None:
        if message.name != name:
            raise Refusal(422, "The question names another model than its address; send it to that one's address.")
        if message.model != specification.model_digest:
            raise Refusal(409, "The question is for a model that is not the approved one; ask for the model again.")
        if len(message.ciphertexts) != specification.ciphertexts:
            raise Refusal(
                422,
                f"The question has {len(message.ciphertexts)} ciphertexts, but an image takes "
                f"{specification.ciphertexts}; encrypt it again.",
            )
        most = specification.parameters.most_ciphertext_bytes
        if any(len(ciphertext) > most for ciphertext in message.ciphertexts):
            raise Refusal(422, f"A ciphertext is longer than the {most} bytes it can need; encrypt the image again.")

    def _check_time(self, said: int) -> None:
        if abs(time.time() - said) > self._settings.clock_s:
            raise Refusal(
                409,
                f"The message is more than {self._settings.clock_s} s old or early; set this machine's clock and "
                "make the message anew.",
            )


def _read_enrolment(body: bytes, signature: str | None) -> tuple[Enrolment, str]:
    message = decode(Enrolment, body)
    if not is_signed(message.identity, Enrolment, body, signature):
        raise Refusal(422, "The signature is not that of this enrolment; sign it with the identity it names.")
    return message, digest_of(message.keys)


def _signed_digest(identity: str, body: bytes, signature: str | None) -> str:
    if not is_signed(identity, Question, body, signature):
        raise Refusal(
            422, "The signature is not that of who enrolled these keys; sign the question with that identity."
        )
    return digest_of(body)
