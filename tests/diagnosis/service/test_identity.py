import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from primia.diagnosis.service.identity import load_or_make_identity
from primia.errors import EncryptionError


def test_an_identity_is_made_once_and_is_private(tmp_path) -> None:
    path = tmp_path / "identity.pem"
    made = load_or_make_identity(path)
    assert load_or_make_identity(path).public == made.public
    assert len(made.public) == 64
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_identity_that_others_can_read_is_refused(tmp_path) -> None:
    path = tmp_path / "identity.pem"
    load_or_make_identity(path)
    path.chmod(0o640)
    with pytest.raises(EncryptionError, match="chmod 600"):
        load_or_make_identity(path)


def test_a_damaged_or_foreign_identity_is_refused_and_never_replaced(tmp_path) -> None:
    path = tmp_path / "identity.pem"
    foreign = X25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", foreign):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(EncryptionError, match="no Ed25519 key"):
            load_or_make_identity(path)
        assert path.read_bytes() == content
