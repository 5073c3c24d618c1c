"""A model as its server describes it: signed by the right key, by the name asked for, and within reason."""

import secrets
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from primia.diagnosis.client.connection import Connection
from primia.diagnosis.wire import IdentityProof, ModelDescription, ModelName, digest_of, is_identity, is_signed
from primia.encrypted.parameters import MOST_CIPHERTEXTS, Specification
from primia.errors import EncryptionError

MOST_DESCRIPTION_BYTES = 1 << 20
MOST_KEY_BYTES = 2 << 30  # no model is worth keys larger than that

_NAME: TypeAdapter[str] = TypeAdapter(ModelName)


@dataclass(frozen=True)
class Described:
    """A model's description, with the SHA-256 and the size of the body it came in."""

    description: ModelDescription
    digest: str
    bytes: int


def introduced(connection: Connection, expected: str | None) -> str:
    """The identity that the server proves to hold, before it sees the token; `expected`, or any if None."""
    nonce = secrets.token_hex(16)
    reply = connection.get(f"/identity?nonce={nonce}", most=4096)
    try:
        proof = IdentityProof.model_validate_json(reply.body)
    except ValidationError:
        raise EncryptionError(
            f"{connection.url} gave no valid proof of its identity and was sent no token; "
            "ask who runs it whether it is a primia diagnosis server of this version."
        ) from None
    _check_pinned(connection, proof.identity, expected)
    if not is_identity(proof.identity, nonce, proof.signature):
        raise EncryptionError(
            f"{connection.url} does not hold the key of the identity it names, and was sent no token; "
            "ask who runs it, for it may be somebody else's."
        )
    connection.authorise()
    return proof.identity


def _check_pinned(connection: Connection, identity: str, expected: str | None) -> None:
    if expected is not None and identity != expected:
        raise EncryptionError(
            f"THE SERVER AT {connection.url} IS NOT THE ONE THAT WAS PINNED: it signs as {identity}, "
            f"not {expected}; send it nothing, and ask its operator whether its identity was changed."
        )


def described(connection: Connection, name: str, *, identity: str) -> Described:
    """A model's description, signed by `identity`."""
    reply = connection.get(f"/models/{name}", most=MOST_DESCRIPTION_BYTES)
    try:
        description = ModelDescription.model_validate_json(reply.body)
    except ValidationError:
        raise EncryptionError(
            f"{connection.url} gave no valid description of a model; "
            "ask who runs it whether it is a primia diagnosis server of this version."
        ) from None
    _check_pinned(connection, description.identity, identity)
    if not is_signed(description.identity, ModelDescription, reply.body, reply.signature):
        raise EncryptionError(
            f"The description of the model does not carry the signature of {connection.url}, so it may have been "
            "changed on the way; ask again, and tell the server's operator if it stays so."
        )
    if description.name != name:
        raise EncryptionError(f"{connection.url} describes another model than {name}, which was asked for; ask again.")
    _check_bounds(description.specification)
    return Described(description, digest_of(reply.body), len(reply.body))


def _check_bounds(said: Specification) -> None:
    """A signature says who speaks, not that it is sane: what is described must not fill this machine's memory."""
    most_values = MOST_CIPHERTEXTS * said.parameters.slots
    if said.ciphertexts > MOST_CIPHERTEXTS or said.packing.values > most_values:
        raise EncryptionError("The server describes a model larger than this client encrypts images for; check both.")
    if said.parameters.most_key_bytes > MOST_KEY_BYTES:
        raise EncryptionError(
            f"The server's model asks for keys of {said.parameters.most_key_bytes >> 20} MiB; use one that needs less."
        )


def model_name(name: str) -> str:
    """A name that a model can have, or `EncryptionError`."""
    try:
        return _NAME.validate_python(name)
    except ValidationError:
        raise EncryptionError(
            "A model's name is a small letter and at most 31 small letters, digits, - and _; correct it (--model)."
        ) from None


def public_key(fingerprint: str) -> str:
    """The public key that a person copied, with or without colons, as 64 small hexadecimal digits."""
    digits = fingerprint.replace(":", "").replace(" ", "").lower()
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise EncryptionError("A fingerprint has 64 hexadecimal digits; copy it again as a whole.")
    return digits
