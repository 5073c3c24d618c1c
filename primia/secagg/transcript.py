"""Round 3: what every survivor signs, so that sites which were told different things never unmask."""

import hashlib
from collections.abc import Iterable, Mapping

from primia.errors import ProtocolError
from primia.secagg.keys import verify
from primia.secagg.session import Session, statement


def transcript(
    session: Session,
    *,
    plan: str,
    request: str,
    threshold: int,
    keys: bytes,
    cohort: Iterable[str],
    survivors: Iterable[str],
) -> bytes:
    """SHA-256 digest of everything the sites must agree on.

    `plan` and `request` are digests in hexadecimal (the request's covers the model's hash), `keys` is that of all
    keys of round 0, `cohort` are the sites of round 2, `survivors` those whose masked vectors arrived.
    """
    agreed = statement("transcript", session, plan, request, threshold, keys, sorted(cohort), sorted(survivors))
    return hashlib.sha256(agreed).digest()


def check_signatures(
    signatures: Mapping[str, bytes], signed: bytes, *, identities: Mapping[str, bytes], session: Session
) -> None:
    """Check everybody's signature of the transcript digest `signed` under the pinned `identities`.

    Raises:
        ProtocolError: a site was told another plan, model, key or set of survivors, or did not sign.
    """
    for name, signature in signatures.items():
        if not verify(identities[name], signature, signed):
            raise ProtocolError(
                f"{name} did not sign the same transcript of {session}: it was told another plan, model or cohort."
            )
