"""One message from site to site through the coordinator, which cannot read it: how the group's CKKS key travels."""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from primia.errors import ProtocolError
from primia.secagg.masks import derive_key
from primia.secagg.session import Session, statement

_NONCE = bytes(12)  # a key seals one message, so the nonce may be constant


def seal_message(message: bytes, secret: bytes, session: Session, *, sender: str, recipient: str, keys: bytes) -> bytes:
    """Encrypt (RFC 8439) the one message of this session from `sender` to `recipient`.

    `secret` is what their channel keys agree on, `keys` the digest of all keys of round 0.
    """
    context = statement("sealed-message", session, sender, recipient, keys)
    return ChaCha20Poly1305(derive_key(secret, context)).encrypt(_NONCE, message, context)


def open_message(sealed: bytes, secret: bytes, session: Session, *, sender: str, recipient: str, keys: bytes) -> bytes:
    """Decrypt what `seal_message` made.

    Raises:
        ProtocolError: it was changed, or is another's or another session's.
    """
    context = statement("sealed-message", session, sender, recipient, keys)
    try:
        return ChaCha20Poly1305(derive_key(secret, context)).decrypt(_NONCE, sealed, context)
    except InvalidTag:
        raise ProtocolError(
            f"The message that {sender} sealed for {recipient} in {session} does not open: it was changed on the way, "
            "or belongs to another session; start a new attempt."
        ) from None
