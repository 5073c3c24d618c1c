import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from primia.errors import ProtocolError
from primia.secagg.keys import Identity
from primia.secagg.session import Session
from primia.secagg.transcript import check_signatures, transcript

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")
FIELDS = {
    "plan": "aa" * 32,
    "request": "bb" * 32,
    "threshold": 3,
    "keys": bytes(range(32)),
    "cohort": ("delta", "hill", "north", "river"),
    "survivors": ("hill", "north", "river"),
}


def test_the_transcript_is_a_known_answer():
    # Written down when protocol version 3 was fixed: a change here is a new protocol version.
    assert transcript(SESSION, **FIELDS).hex() == KNOWN


KNOWN = "7506fa7444896c6cee86ed3849af2013eb4d4a7c7b0861594a72e0381609c127"


def test_the_order_of_names_does_not_matter():
    assert transcript(SESSION, **{**FIELDS, "survivors": ("river", "north", "hill")}) == transcript(SESSION, **FIELDS)


@pytest.mark.parametrize(
    "change",
    [
        {"plan": "ab" * 32},
        {"request": "ba" * 32},
        {"threshold": 4},
        {"keys": bytes(32)},
        {"cohort": ("hill", "north", "river")},
        {"survivors": ("delta", "hill", "north", "river")},
        # A name that moves from one list to the other, or two names that read like one.
        {"cohort": ("hill", "north", "river"), "survivors": ("delta", "hill", "north", "river")},
        {"survivors": ("hillnorth", "river")},
    ],
)
def test_sites_that_were_told_anything_else_sign_something_else(change):
    assert transcript(SESSION, **{**FIELDS, **change}) != transcript(SESSION, **FIELDS)


@pytest.mark.parametrize("change", [{"round": 2}, {"attempt": 2}, {"run": "run-0002"}, {"purpose": "evaluate"}])
def test_a_transcript_belongs_to_one_session(change):
    assert transcript(SESSION.model_copy(update=change), **FIELDS) != transcript(SESSION, **FIELDS)


def test_a_site_that_signed_another_transcript_is_named():
    north, river = (Identity(Ed25519PrivateKey.generate()) for _ in range(2))
    identities = {"north": north.public, "river": river.public}
    signed = transcript(SESSION, **FIELDS)
    signatures = {"north": north.sign(signed), "river": river.sign(signed)}
    check_signatures(signatures, signed, identities=identities, session=SESSION)
    for forged in (river.sign(signed[::-1]), signatures["north"], bytes(64), b""):
        with pytest.raises(ProtocolError, match="river did not sign the same transcript"):
            check_signatures({**signatures, "river": forged}, signed, identities=identities, session=SESSION)
