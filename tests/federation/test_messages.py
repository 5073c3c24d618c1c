import pickle

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.errors import ProtocolError
from primia.federation import messages as m
from primia.federation.codec import content_digest, decode_request, decode_response, encode
from primia.federation.vectors import bytes_to_floats, bytes_to_words, words_to_bytes
from primia.secagg.keys import SignedKeys
from primia.secagg.session import Session
from primia.secagg.sharing import SEALED_BYTES, Sealed

SESSION = Session(run="run-0001", round=3, attempt=2, purpose="train")
DIGEST = "0" * 64
TRAIN = m.Train(
    session=SESSION,
    plan=DIGEST,
    model=bytes(8),
    model_digest=DIGEST,
    mean=0.5,
    std=0.2,
    total_weight=30,
    counted=("north", "river"),
    spare=7,
    class_weights=(0.5, 2.0),
)
KEYS = SignedKeys(name="north", channel=bytes(32), mask=bytes(32), signature=bytes(64))
SEALED = Sealed(shares={"river": bytes(SEALED_BYTES)}, commitments={"north": bytes(64), "river": bytes(64)})
REQUESTS = [
    m.Describe(),
    m.Join(plan=b"{}"),
    m.AdvertiseKeys(session=SESSION),
    m.ShareKeys(session=SESSION, model=DIGEST, keys=(KEYS,)),
    m.DeliverShares(session=SESSION, cohort=("north", "river"), shares={"river": bytes(SEALED_BYTES)}),
    m.DeliverShares(
        session=SESSION,
        cohort=("north", "river"),
        shares={},
        group_key=m.SealedGroupKey(maker="north", public=b"public", secret=b"sealed"),
    ),
    m.MakeGroupKey(session=SESSION),
    m.DecryptSum(session=SESSION, total=b"ciphertexts", words=3),
    m.Statistics(session=SESSION, plan=DIGEST),
    TRAIN,
    m.Evaluate(session=SESSION, plan=DIGEST, model=bytes(8), model_digest=DIGEST, mean=0.5, std=0.2),
    m.Consistency(session=SESSION, survivors=("north", "river")),
    m.Unmask(session=SESSION, survivors=("north",), dropped=("river",), signatures={"north": bytes(64)}),
    m.ReadLedger(),
    m.Join(plan=b"{}", teacher=bytes(8)),
]
RESPONSES = [
    m.Description(name="north", identity=bytes(32), data=DIGEST, classes=("a", "b"), pixels=16),
    m.Joined(plan=DIGEST),
    m.KeyAdvert(session=SESSION, keys=KEYS),
    m.Shares(session=SESSION, sealed=SEALED),
    m.Accepted(session=SESSION),
    m.GroupKey(session=SESSION, public=b"public", sealed={"river": b"sealed"}),
    m.DecryptedSum(session=SESSION, vector=bytes(12)),
    m.MaskedInput(session=SESSION, vector=bytes(12)),
    m.Signed(session=SESSION, signature=bytes(64)),
    m.Revealed(session=SESSION, shares={"river": bytes(33)}),
    m.LedgerReport(steps=4, attempts=2, epsilon=1.5, epsilon_all_runs=2.5, text="{}\n"),
    m.Refusal(kind="budget", reason="spent"),
    m.Refusal(kind="cohort", reason="other company", cohort=("north", "river")),
]


def test_every_message_comes_back_as_it_was():
    assert {type(r) for r in REQUESTS} == set(m.Request.__args__)
    assert {type(r) for r in RESPONSES} == set(m.Response.__args__)
    assert set(m.SessionRequest.__args__) < set(m.Request.__args__)
    assert [decode_request(encode(r)) for r in REQUESTS] == REQUESTS
    assert [decode_response(encode(r)) for r in RESPONSES] == RESPONSES


def test_a_request_is_no_response():
    with pytest.raises(ProtocolError):
        decode_response(encode(TRAIN))
    with pytest.raises(ProtocolError):
        decode_request(encode(RESPONSES[0]))


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes_end_in_one_clear_error(raw):
    with pytest.raises(ProtocolError):
        decode_request(raw)


@given(index=st.integers(0, len(REQUESTS) - 1), cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_message_is_refused(index, cut):
    raw = encode(REQUESTS[index])
    with pytest.raises(ProtocolError):
        decode_request(raw[: int(cut * len(raw))])


@given(index=st.integers(0, len(REQUESTS) - 1), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(deadline=None)
def test_a_flipped_bit_is_refused_or_gives_another_message(index, where, bit):
    raw = bytearray(encode(REQUESTS[index]))
    raw[int(where * len(raw))] ^= 1 << bit
    try:
        assert decode_request(raw) != REQUESTS[index]
    except ProtocolError as error:
        assert str(error).endswith(".")  # one sentence, and no other exception


class _Bomb:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize(
    "raw",
    [
        pickle.dumps(_Bomb()),
        msgpack.packb(["Train", {**TRAIN.model_dump(), "total_weight": 0}]),
        msgpack.packb(["Train", {**TRAIN.model_dump(), "total_weight": "30"}]),
        msgpack.packb(["Train", {**TRAIN.model_dump(), "std": 0.0}]),
        msgpack.packb(["Train", {**TRAIN.model_dump(), "class_weights": [float("nan")]}]),
        msgpack.packb(["DeliverShares", {**REQUESTS[4].model_dump(), "shares": {"river": bytes(SEALED_BYTES + 1)}}]),
        msgpack.packb(["ShareKeys", {**REQUESTS[3].model_dump(), "model": "x"}]),
        msgpack.packb(["Train", {**TRAIN.model_dump(), "mean": float("nan")}]),
        msgpack.packb(["Train", {**TRAIN.model_dump(), "code": "import os"}]),
        msgpack.packb(["Train", {**TRAIN.model_dump(), "plan": "x"}]),
        msgpack.packb(["Train", {}]),
        msgpack.packb(["eval", {}]),
        msgpack.packb([["Train"], {}]),
        msgpack.packb(["Describe", {"protocol": 1}]),
        msgpack.packb(["Describe", {}, {}]),
        msgpack.packb(["Describe", msgpack.ExtType(1, b"x")]),
        msgpack.packb(["Join", {"plan": bytes((1 << 20) + 1)}]),
        msgpack.packb(["Consistency", {"session": SESSION.model_dump(), "survivors": ["a"] * 101}]),
        msgpack.packb(["Statistics", {"session": {**SESSION.model_dump(), "run": "../../etc"}, "plan": DIGEST}]),
        b"\x91" * 5000,
    ],
)
def test_malformed_and_oversized_requests_are_refused_in_one_sentence(raw, capsys):
    with pytest.raises(ProtocolError) as caught:
        decode_request(raw)
    assert len(str(caught.value)) < 200
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "raw",
    [
        msgpack.packb(["Shares", {"session": SESSION.model_dump(), "sealed": {"shares": {"river": b"short"}}}]),
        msgpack.packb(["Revealed", {"session": SESSION.model_dump(), "shares": {"river": bytes(34)}}]),
        msgpack.packb(
            ["Revealed", {"session": SESSION.model_dump(), "shares": {str(n): bytes(33) for n in range(101)}}]
        ),
        msgpack.packb(["MaskedInput", {"session": SESSION.model_dump(), "vector": "text"}]),
        msgpack.packb(["Accepted", {"session": {**SESSION.model_dump(), "attempt": 0}}]),
        msgpack.packb(["Refusal", {"kind": "other", "reason": "no", "cohort": []}]),
    ],
)
def test_malformed_and_oversized_answers_are_refused_in_one_sentence(raw):
    with pytest.raises(ProtocolError) as caught:
        decode_response(raw)
    assert len(str(caught.value)) < 200


def test_the_content_digest_ignores_the_attempt_and_nothing_else():
    digest = content_digest(TRAIN)
    again = TRAIN.model_copy(update={"session": SESSION.model_copy(update={"attempt": 9})})
    assert content_digest(again) == digest
    for change in (
        {"session": SESSION.model_copy(update={"round": 4})},
        {"model": bytes(12)},
        {"mean": 0.51},
        {"total_weight": 31},
        {"class_weights": None},
        {"plan": "1" * 64},
    ):
        assert content_digest(TRAIN.model_copy(update=change)) != digest


def test_vectors_travel_as_little_endian_words():
    words, floats = np.array([1, 2**32 - 1], dtype=np.uint32), np.array([1.0, -2.5], dtype=np.float32)
    assert words_to_bytes(words).hex() == "01000000ffffffff"
    assert words_to_bytes(floats).hex() == "0000803f000020c0"
    assert bytes_to_words(words_to_bytes(words)).tolist() == words.tolist()
    assert bytes_to_floats(words_to_bytes(floats)).tolist() == floats.tolist()
    with pytest.raises(ProtocolError):
        bytes_to_words(b"abc")


def test_a_short_message_of_many_containers_is_refused_before_it_fills_the_memory():
    raw = msgpack.packb(["Join", {"plan": [[{}] * 1000] * 1000}])
    with pytest.raises(ProtocolError, match="are not a message"):
        decode_request(raw)
