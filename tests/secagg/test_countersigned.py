import pytest
from secagg_sessions import IDENTITIES, NAMES, PLAN, REQUEST, SESSION

from primia.errors import ProtocolError
from primia.secagg.countersigned import Countersigned
from primia.secagg.keys import SessionKey, keys_digest, sign_keys
from primia.secagg.transcript import transcript

FOUR = NAMES[:4]
PINNED = {name: IDENTITIES[name].public for name in FOUR}


@pytest.fixture(scope="module")
def signed():
    """Four sites with heads of their own; the last one dropped out before the end."""
    keys = tuple(
        sign_keys(
            IDENTITIES[name],
            SESSION,
            name=name,
            channel=SessionKey().public,
            mask=SessionKey().public,
            ledger=bytes([number]) * 32,
        )
        for number, name in enumerate(FOUR, start=1)
    )
    fields = {"plan": PLAN, "request": REQUEST, "threshold": 3, "cohort": FOUR, "survivors": FOUR[:3]}
    digest = transcript(SESSION, keys=keys_digest(keys, SESSION), **fields)
    signatures = {name: IDENTITIES[name].sign(digest) for name in FOUR[:3]}
    return Countersigned(session=SESSION, keys=keys, signatures=signatures, **fields)


def test_the_heads_are_those_that_the_sites_signed(signed):
    assert signed.heads(PINNED) == {name: f"{number:02x}" * 32 for number, name in enumerate(FOUR, start=1)}


def test_it_is_the_same_after_it_was_written_and_read(signed):
    assert Countersigned.model_validate_json(signed.model_dump_json(indent=2)) == signed


def changed(signed, **changes):
    return signed.model_copy(update=changes)


@pytest.mark.parametrize(
    "field", ["session", "plan", "request", "threshold", "cohort", "survivors", "head", "head signed anew"]
)
def test_nothing_in_it_can_be_changed(signed, field):
    first, *others = signed.keys
    other = {
        "session": SESSION.model_copy(update={"round": 2}),
        "plan": REQUEST,
        "request": PLAN,
        "threshold": 2,
        "cohort": FOUR[:3],
        "survivors": FOUR,
    }
    if field in other:
        forged = changed(signed, **{field: other[field]})
    else:
        rolled_back = first.model_copy(update={"ledger": bytes(32)})
        if field == "head signed anew":  # by its own site, which wants to have had another head
            rolled_back = sign_keys(
                IDENTITIES[first.name],
                SESSION,
                name=first.name,
                channel=first.channel,
                mask=first.mask,
                ledger=bytes(32),
            )
        forged = changed(signed, keys=(rolled_back, *others))
    with pytest.raises(ProtocolError, match=r"did not sign the same transcript|not signed by its pinned identity"):
        forged.heads(PINNED)


def test_it_takes_enough_signatures_of_those_who_took_part(signed):
    two = dict(list(signed.signatures.items())[:2])
    alone = {FOUR[0]: signed.signatures[FOUR[0]]}
    for forged in (
        changed(signed, signatures=two),
        changed(signed, signatures=alone, threshold=1),
        changed(signed, signatures={**two, FOUR[3]: bytes(64)}),
    ):
        with pytest.raises(ProtocolError, match="not signed by enough of those who took part"):
            forged.heads(PINNED)


def test_sites_that_are_not_pinned_do_not_count(signed):
    with pytest.raises(ProtocolError, match=f"names {FOUR[3]}, whose identity is not pinned"):
        signed.heads({name: PINNED[name] for name in FOUR[:3]})
