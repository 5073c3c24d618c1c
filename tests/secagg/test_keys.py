import stat

import pytest

from primia.errors import FederationError, ProtocolError
from primia.secagg.keys import SessionKey, keys_digest, load_or_create_identity, sign_keys, verify, verify_keys
from primia.secagg.session import Session

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")


def test_an_identity_is_made_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "identity.pem"
    made, loaded = load_or_create_identity(path), load_or_create_identity(path)
    assert made.public == loaded.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().startswith(b"-----BEGIN " + b"PRIVATE KEY-----")
    assert verify(loaded.public, made.sign(b"content"), b"content")
    assert not verify(loaded.public, made.sign(b"content"), b"other content")


def test_an_identity_open_to_others_is_refused(tmp_path):
    path = tmp_path / "identity.pem"
    load_or_create_identity(path)
    path.chmod(0o640)
    with pytest.raises(FederationError, match="chmod 600"):
        load_or_create_identity(path)


def test_a_damaged_identity_is_refused_without_showing_it(tmp_path):
    path = tmp_path / "identity.pem"
    path.write_bytes(b"-----BEGIN " + b"PRIVATE KEY-----\nsecret\n-----END " + b"PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(FederationError, match="not a private key") as caught:
        load_or_create_identity(path)
    assert "secret" not in str(caught.value)


def test_fingerprints_differ_between_sites_that_hold_the_same_data(tmp_path):
    one, other = (load_or_create_identity(tmp_path / name) for name in ("one.pem", "other.pem"))
    assert one.fingerprint(b"data") == one.fingerprint(b"data")
    assert one.fingerprint(b"data") != other.fingerprint(b"data")


def test_two_sites_agree_on_one_secret():
    one, other, third = SessionKey(), SessionKey(), SessionKey()
    assert one.agree(other.public) == other.agree(one.public)
    assert one.agree(other.public) != one.agree(third.public)


def test_agreement_is_x25519():
    # RFC 7748, section 6.1.
    bob = SessionKey(bytes.fromhex(BOB))
    assert bob.private_bytes().hex() == BOB
    assert bob.public.hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    assert bob.agree(bytes.fromhex(ALICE_PUBLIC)).hex() == SHARED


BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


# Points of small order on Curve25519 (RFC 7748, section 7; list of D. J. Bernstein).
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_point_that_makes_the_secret_zero_is_refused(point):
    with pytest.raises(ProtocolError):
        SessionKey().agree(bytes.fromhex(point))


@pytest.mark.parametrize("point", SMALL_ORDER)
@pytest.mark.parametrize("place", ["channel", "mask"])
def test_a_site_that_advertises_such_a_point_is_named(tmp_path, point, place):
    identity = load_or_create_identity(tmp_path / "identity.pem")
    fields = {"channel": SessionKey().public, "mask": SessionKey().public, place: bytes.fromhex(point)}
    advert = sign_keys(identity, SESSION, name="north", **fields)
    with pytest.raises(ProtocolError, match="A key of north"):
        verify_keys(advert, SESSION, identity=identity.public)


def test_signed_keys_serve_one_name_two_keys_and_one_session(tmp_path):
    identity = load_or_create_identity(tmp_path / "identity.pem")
    channel, mask = SessionKey().public, SessionKey().public
    advert = sign_keys(identity, SESSION, name="north", channel=channel, mask=mask)
    verify_keys(advert, SESSION, identity=identity.public)
    for changed, session in [
        (advert.model_copy(update={"name": "river"}), SESSION),
        (advert.model_copy(update={"channel": SessionKey().public}), SESSION),
        (advert.model_copy(update={"mask": SessionKey().public}), SESSION),
        (advert.model_copy(update={"channel": mask, "mask": channel}), SESSION),
        (advert, SESSION.model_copy(update={"attempt": 2})),
        (advert, SESSION.model_copy(update={"round": 2})),
        (advert, SESSION.model_copy(update={"purpose": "evaluate"})),
        (advert, SESSION.model_copy(update={"run": "run-0002"})),
    ]:
        with pytest.raises(ProtocolError, match="not signed by its pinned identity"):
            verify_keys(changed, session, identity=identity.public)


def test_the_digest_of_all_keys_depends_on_every_key_and_not_on_their_order(tmp_path):
    identity = load_or_create_identity(tmp_path / "identity.pem")
    adverts = [
        sign_keys(identity, SESSION, name=name, channel=SessionKey().public, mask=SessionKey().public)
        for name in ("north", "river", "hill")
    ]
    assert keys_digest(adverts, SESSION) == keys_digest(adverts[::-1], SESSION)
    other = adverts[0].model_copy(update={"mask": SessionKey().public})
    digests = {
        keys_digest(keys, session)
        for keys, session in [
            (adverts, SESSION),
            (adverts[1:], SESSION),
            ([other, *adverts[1:]], SESSION),
            (adverts, SESSION.model_copy(update={"attempt": 2})),
        ]
    }
    assert len(digests) == 4
