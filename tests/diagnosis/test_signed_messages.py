"""Bodies that are no message are refused while they are read, before they take memory."""

import tracemalloc

import msgpack
import pytest

from primia.diagnosis.wire import Answer, Enrolment, Question, decode, encode
from primia.errors import EncryptionError

DIGEST = "0" * 64


def nested(count: int) -> bytes:
    """That many empty lists, in lists of 256 at most."""
    level = [b"\x90"] * count
    while len(level) > 1:
        parts = [level[start : start + 256] for start in range(0, len(level), 256)]
        level = [b"\xdc" + len(part).to_bytes(2, "big") + b"".join(part) for part in parts]
    return level[0]


@pytest.mark.parametrize("kind", [Enrolment, Question, Answer])
@pytest.mark.parametrize("field", [b"", b"\x81\xa4keys"])
def test_a_body_of_a_million_empty_lists_takes_no_memory(kind, field) -> None:
    body = field + nested(1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(EncryptionError, match="is no"):
            decode(kind, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize("value", [{}, {"a": 1}, [[]], [1], ["a"], [{}]])
def test_a_field_holds_neither_fields_nor_a_list_of_anything_but_bytes(value) -> None:
    with pytest.raises(EncryptionError, match="is no question of this version"):
        decode(Question, msgpack.packb({"ciphertexts": value}))


def test_messages_arrive_as_they_were_sent() -> None:
    question = Question(name="chest", model=DIGEST, keys=DIGEST, nonce=bytes(16), time=1, ciphertexts=[b"a"] * 256)
    assert decode(Question, encode(question)) == question
    enrolment = Enrolment(identity=DIGEST, parameters=DIGEST, keys=b"keys", time=1)
    assert decode(Enrolment, encode(enrolment)) == enrolment
