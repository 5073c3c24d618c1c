import pytest

from primia.errors import ProtocolError
from primia.secagg.sealing import open_message, seal_message
from primia.secagg.session import Session

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")
PLACE = {"sender": "north", "recipient": "river", "keys": bytes(32)}
SECRET = bytes(range(32))


def test_a_message_opens_at_its_recipient():
    assert open_message(seal_message(b"key", SECRET, SESSION, **PLACE), SECRET, SESSION, **PLACE) == b"key"


def test_it_opens_nowhere_else_and_not_after_a_change():
    sealed = seal_message(b"key", SECRET, SESSION, **PLACE)
    other = SESSION.model_copy(update={"attempt": 2})
    attempts = [
        (sealed[:-1] + bytes([sealed[-1] ^ 1]), SECRET, SESSION, PLACE),
        (sealed[:-1], SECRET, SESSION, PLACE),
        (b"", SECRET, SESSION, PLACE),
        (sealed, bytes(32), SESSION, PLACE),
        (sealed, SECRET, other, PLACE),
        (sealed, SECRET, SESSION, PLACE | {"sender": "river", "recipient": "north"}),
        (sealed, SECRET, SESSION, PLACE | {"keys": bytes(31) + b"1"}),
    ]
    for content, secret, session, place in attempts:
        with pytest.raises(ProtocolError, match="does not open"):
            open_message(content, secret, session, **place)
