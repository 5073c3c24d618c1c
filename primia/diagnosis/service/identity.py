"""The service's Ed25519 identity: what clients pin on first use, as they do with ssh."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from primia.errors import EncryptionError
from primia.files import write_bytes


class Identity:
    """A private signing key and its public half in hexadecimal."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self.private = private
        self.public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def load_or_make_identity(path: Path) -> Identity:
    """Read identity.pem, or make one (mode 0600) where none is.

    Raises:
        EncryptionError: it is damaged, of another kind, or other users can read it. It is never replaced: clients
            would take the service for an impostor.
    """
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        private = Ed25519PrivateKey.generate()
        write_bytes(path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        return Identity(private)
    if mode & 0o077:
        raise EncryptionError(f"{path} can be read by other users of this machine; run chmod 600 on it.")
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise EncryptionError(
            f"{path} holds no Ed25519 key; restore it from a backup, or remove it and tell every client the new one."
        )
    return Identity(key)
