"""A key file under a passphrase: scrypt (RFC 7914) and AES-256-GCM, with an authenticated header that names both."""

import os
import struct
import unicodedata
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from primia.errors import EncryptionError

SHORTEST = 8
_MAGIC = b"primia-sealed-1\n"
_HEADER = struct.Struct(">16sBBB16s12s")  # magic, log2 of scrypt's n, r, p, salt, nonce
_LOG_N, _R, _P = 17, 8, 1  # 128 MiB and about half a second a guess
_MOST_LOG_N = 20  # 1 GiB: what a file may ask for when it is opened


def is_sealed(content: bytes) -> bool:
    """Whether a key file asks for a passphrase."""
    return content.startswith(_MAGIC)


class Lock:
    """What one passphrase opens: a file by AES-256-GCM, and a second, independent password for a PKCS8 file.

    PKCS8 stretches its password far less than scrypt does; under the passphrase itself it would be the shortcut to it.
    """

    def __init__(self, passphrase: str, *, salt: bytes, log_n: int, r: int, p: int) -> None:
        self._salt, self._cost = salt, (log_n, r, p)
        secret = unicodedata.normalize("NFC", passphrase).encode()
        derived = Scrypt(salt=salt, length=64, n=1 << log_n, r=r, p=p).derive(secret)
        self._key = derived[:32]
        self.password = derived[32:].hex().encode()

    @classmethod
    def new(cls, passphrase: str) -> Self:
        """For new files, with a salt of its own."""
        if len(passphrase) < SHORTEST:
            raise EncryptionError(f"The passphrase is too short; choose one of at least {SHORTEST} characters.")
        return cls(passphrase, salt=os.urandom(16), log_n=_LOG_N, r=_R, p=_P)

    @classmethod
    def of(cls, content: bytes, passphrase: str) -> Self:
        """For a file that `seal` wrote."""
        if len(content) < _HEADER.size:
            raise EncryptionError("The secret key's file is cut off; restore it from a backup, or make new keys.")
        _, log_n, r, p, salt, _ = _HEADER.unpack_from(content)
        if not (1 <= log_n <= _MOST_LOG_N and r == _R and p == _P):
            raise EncryptionError("The secret key's file is damaged; restore it from a backup, or make new keys.")
        return cls(passphrase, salt=salt, log_n=log_n, r=r, p=p)

    def seal(self, content: bytes) -> bytes:
        """Encrypt, with a fresh nonce."""
        nonce = os.urandom(12)
        header = _HEADER.pack(_MAGIC, *self._cost, self._salt, nonce)
        return header + AESGCM(self._key).encrypt(nonce, content, header)

    def open(self, content: bytes) -> bytes:
        """Decrypt what `seal` gave.

        Raises:
            EncryptionError: another passphrase, or a changed file; which of the two cannot be known.
        """
        header = content[: _HEADER.size]
        try:
            return AESGCM(self._key).decrypt(header[-12:], content[_HEADER.size :], header)
        except InvalidTag:
            raise EncryptionError(
                "The passphrase does not open the secret key, or its file was changed; try again, or restore the file."
            ) from None
