import itertools

import pytest
from pydantic import ValidationError

from primia.errors import ProtocolError
from primia.secagg import shamir
from primia.secagg.session import Session
from primia.secagg.sharing import SEALED_BYTES, Pair, Sealed, seal, split, unseal

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")
SECRET, KEYS = bytes(range(32)), bytes(range(32, 64))
PAIR = Pair(seed=bytes(range(33)), mask_key=bytes(range(33, 66)))
WHERE = {"sender": "north", "recipient": "river", "keys": KEYS}


def test_sealed_shares_and_commitments_are_known_answers():
    # Written down when protocol version 3 was fixed: a change here is a new protocol version.
    assert seal(PAIR, SECRET, SESSION, **WHERE).hex() == SEALED
    assert PAIR.commitment(SESSION, owner="north", holder="river").hex() == COMMITTED


SEALED = (
    "20ff80f44f171b08132083b9a652834954098086ba8de94c8b65b611a288647f6f8397273fa459be63f55013e5a7e1fa"
    "2b391275cbfd9d90ad13411f7cb6b39f193b6a57a09d2b35a98aa397cc5cd269c52c"
)
COMMITTED = (
    "47a30cda522715d4484e4ab34b906cc1573351ed81a3727ae9d5a05350eff479"
    "2b27d1b394f245bac02147f190d8ce7b9283382c43e032d7fc697bd33ccccae6"
)


def test_the_recipient_opens_what_the_sender_sealed():
    assert unseal(seal(PAIR, SECRET, SESSION, **WHERE), SECRET, SESSION, **WHERE) == PAIR


@pytest.mark.parametrize(
    "change",
    [
        {"sender": "hill"},
        {"recipient": "hill"},
        {"sender": "river", "recipient": "north"},
        {"keys": bytes(32)},
    ],
)
def test_shares_sealed_for_another_place_do_not_open(change):
    with pytest.raises(ProtocolError, match="do not open"):
        unseal(seal(PAIR, SECRET, SESSION, **WHERE), SECRET, SESSION, **{**WHERE, **change})


@pytest.mark.parametrize("change", [{"round": 2}, {"attempt": 2}, {"run": "run-0002"}, {"purpose": "evaluate"}])
def test_shares_of_another_session_do_not_open(change):
    with pytest.raises(ProtocolError, match="north sealed for river do not open"):
        unseal(seal(PAIR, SECRET, SESSION, **WHERE), SECRET, SESSION.model_copy(update=change), **WHERE)


def test_every_mutated_byte_is_noticed():
    sealed = seal(PAIR, SECRET, SESSION, **WHERE)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(ProtocolError, match="do not open"):
            unseal(bytes(changed), SECRET, SESSION, **WHERE)


@pytest.mark.parametrize("length", [0, 1, 15, SEALED_BYTES - 1, SEALED_BYTES + 1, 1 << 20])
def test_truncated_and_oversized_shares_end_in_the_same_error(length):
    sealed = (seal(PAIR, SECRET, SESSION, **WHERE) * (1 + length // SEALED_BYTES))[:length]
    with pytest.raises(ProtocolError, match="do not open"):
        unseal(sealed, SECRET, SESSION, **WHERE)


def test_an_error_shows_no_secret():
    with pytest.raises(ProtocolError) as caught:
        unseal(bytes(SEALED_BYTES), SECRET, SESSION, **WHERE)
    assert SECRET.hex() not in str(caught.value) and repr(SECRET) not in str(caught.value)
    assert str(PAIR.seed) not in repr(PAIR)


def test_both_secrets_come_back_from_enough_holders():
    places = {"hill": 1, "north": 2, "river": 4, "delta": 7}
    pairs = split(SECRET, KEYS, threshold=3, places=places)
    for chosen in itertools.combinations(places, 3):
        assert shamir.combine({places[name]: pairs[name].seed for name in chosen}, threshold=3) == SECRET
        assert shamir.combine({places[name]: pairs[name].mask_key for name in chosen}, threshold=3) == KEYS


def test_a_commitment_binds_share_kind_owner_holder_and_session():
    def committed(pair=PAIR, session=SESSION, owner="north", holder="river"):
        return pair.commitment(session, owner=owner, holder=holder)

    swapped = Pair(seed=PAIR.mask_key, mask_key=PAIR.seed)
    variants = [
        committed(),
        committed(pair=swapped),
        committed(owner="hill"),
        committed(holder="hill"),
        committed(session=SESSION.model_copy(update={"attempt": 2})),
    ]
    halves = [half for whole in variants for half in (whole[:32], whole[32:])]
    assert len(set(halves)) == len(halves)


@pytest.mark.parametrize(
    "fields",
    [
        {"shares": {"river": bytes(SEALED_BYTES - 1)}, "commitments": {}},
        {"shares": {"river": bytes(SEALED_BYTES + 1)}, "commitments": {}},
        {"shares": {}, "commitments": {"river": bytes(63)}},
        {"shares": {"": bytes(SEALED_BYTES)}, "commitments": {}},
        {"shares": {}},
        {"shares": {}, "commitments": {}, "more": 1},
    ],
)
def test_a_sealed_message_of_another_shape_is_refused(fields):
    with pytest.raises(ValidationError):
        Sealed.model_validate(fields)
