import stat

import pytest

from primia.errors import FederationError, ProtocolError
from primia.secagg.keys import MaskKey, load_or_create_identity, sign_mask_key, verify, verify_mask_key
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
    one, other, third = MaskKey(), MaskKey(), MaskKey()
    assert one.agree(other.public) == other.agree(one.public)
    assert one.agree(other.public) != one.agree(third.public)


# Points of small order on Curve25519 (RFC 7748, section 7; list of D. J. Bernstein).
@pytest.mark.parametrize(
    "point",
    [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ],
)
def test_a_point_that_makes_the_secret_zero_is_refused(point):
    with pytest.raises(ProtocolError):
        MaskKey().agree(bytes.fromhex(point))


def test_a_signed_key_serves_one_name_one_key_and_one_session(tmp_path):
    identity = load_or_create_identity(tmp_path / "identity.pem")
    advert = sign_mask_key(identity, SESSION, name="north", key=bytes(range(32)))
    verify_mask_key(advert, SESSION, identity=identity.public)
    for changed, session in [
        (advert.model_copy(update={"name": "river"}), SESSION),
        (advert.model_copy(update={"key": bytes(32)}), SESSION),
        (advert, SESSION.model_copy(update={"attempt": 2})),
        (advert, SESSION.model_copy(update={"round": 2})),
        (advert, SESSION.model_copy(update={"purpose": "evaluate"})),
        (advert, SESSION.model_copy(update={"run": "run-0002"})),
    ]:
        with pytest.raises(ProtocolError, match="not signed by its pinned identity"):
            verify_mask_key(changed, session, identity=identity.public)
