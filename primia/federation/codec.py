"""The strict msgpack encoding of messages.

A message is `[kind, fields]`; whatever is not exactly one of the known types with fields in range ends in one
`ProtocolError`. Nothing is ever unpickled.
"""

import hashlib
import itertools
from typing import Any, cast

import msgpack
from pydantic import ValidationError

from primia.errors import ProtocolError
from primia.federation.messages import (
    MAX_LEDGER_CHARACTERS,
    MAX_VECTOR_BYTES,
    PROTOCOL,
    MaskedRequest,
    Message,
    Request,
    Response,
    Statistics,
)

_MOST_CONTAINERS = 1000  # keys of a hundred hospitals are a hundred

_REQUESTS = {kind.__name__: kind for kind in Request.__args__}
_RESPONSES = {kind.__name__: kind for kind in Response.__args__}


def encode(message: Message) -> bytes:
    """msgpack bytes of a message."""
    return bytes(msgpack.packb([type(message).__name__, message.model_dump()]))


def decode_request(raw: bytes | bytearray) -> Request:
    """Read a request; anything else is a `ProtocolError`."""
    return cast(Request, _decode(raw, _REQUESTS))


def decode_response(raw: bytes | bytearray) -> Response:
    """Read a response; anything else is a `ProtocolError`."""
    return cast(Response, _decode(raw, _RESPONSES))


def _decode(raw: bytes | bytearray, kinds: dict[str, type[Any]]) -> Any:
    containers = itertools.count(1)

    def counted(container: Any) -> Any:
        # A short message of many empty containers would otherwise take seventy times its size.
        if next(containers) > _MOST_CONTAINERS:
            raise ValueError
        return container

    try:
        kind, fields = msgpack.unpackb(
            raw,
            use_list=False,
            object_hook=counted,
            list_hook=counted,
            strict_map_key=True,
            max_bin_len=MAX_VECTOR_BYTES,
            max_str_len=MAX_LEDGER_CHARACTERS,
            max_array_len=1024,
            max_map_len=1024,
            max_ext_len=0,
        )
        return kinds[kind].model_validate(fields)
    except ValidationError as error:
        # The value itself stays out of the sentence: it may be megabytes, or a secret.
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise ProtocolError(f"A {kind} message has a wrong or missing field: {where or 'fields'}.") from None
    except (ValueError, TypeError, KeyError, msgpack.UnpackException, RecursionError):
        raise ProtocolError(f"{len(raw)} bytes are not a message of protocol version {PROTOCOL}.") from None


def content_digest(request: MaskedRequest) -> str:
    """SHA-256 of a request apart from its attempt: equal for a repetition, different for another question.

    A model is hashed after the rest, where it lies: one more copy of a large one takes longer than its hash.
    """
    changes: dict[str, Any] = {"session": request.session.model_copy(update={"attempt": 1})}
    model = b"" if isinstance(request, Statistics) else request.model
    if model:
        changes["model"] = b""
    digest = hashlib.sha256(encode(request.model_copy(update=changes)))
    digest.update(model)
    return digest.hexdigest()
