"""A site's side of one session of double masking (Bonawitz et al. 2017), without recovery of dropped sites."""

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence

from primia.errors import ProtocolError, SiteRefusal
from primia.secagg.keys import Identity, MaskKey, SignedKey, sign_mask_key, verify, verify_mask_key
from primia.secagg.masks import Words, add_keystream, pair_mask_key, self_mask_key
from primia.secagg.session import Session, statement

MINIMUM_COHORT = 3  # with two, each site could subtract itself from the sum and read the other


def check_cohort(sites: int) -> None:
    """Refuse a cohort in which no site is hidden.

    Raises:
        SiteRefusal: fewer than three sites.
    """
    if sites < MINIMUM_COHORT:
        raise SiteRefusal(
            f"A sum over {sites} hospitals hides none of them; secure aggregation needs at least {MINIMUM_COHORT}."
        )


def transcript(
    session: Session, *, plan: str, request: str, keys: Sequence[SignedKey], survivors: Sequence[str]
) -> bytes:
    """What every survivor signs: plan, request (with the model's hash), everybody's mask keys, and the survivors.

    Sites that were told different things sign different statements, and none of them unmasks.
    """
    adverts = [[advert.name, advert.key] for advert in sorted(keys, key=lambda advert: advert.name)]
    return hashlib.sha256(statement("transcript", session, plan, request, adverts, sorted(survivors))).digest()


class Participant:
    """One site in one session; its methods are called once each, in the order in which they stand here."""

    def __init__(
        self, *, name: str, identity: Identity, session: Session, plan: str, roster: Mapping[str, bytes]
    ) -> None:
        """`roster` holds the pinned Ed25519 public key of every site of the cohort; `plan` is the plan's digest.

        Raises:
            SiteRefusal: the cohort is too small to hide anybody.
        """
        check_cohort(len(roster))
        assert roster[name] == identity.public
        self.session = session
        self._name, self._identity, self._plan, self._roster = name, identity, plan, dict(roster)
        self._key: MaskKey | None = MaskKey()
        self._seed: bytes | None = os.urandom(32)
        self._advert = sign_mask_key(identity, session, name=name, key=self._key.public)
        self._keys: tuple[SignedKey, ...] = ()
        self._request: str | None = None
        self._signed: bytes | None = None

    def advertise(self) -> SignedKey:
        """This session's signed public mask key."""
        return self._advert

    def accept(self, keys: Sequence[SignedKey]) -> None:
        """Take the mask keys of the whole cohort.

        Raises:
            ProtocolError: not exactly the cohort, a key used twice, a bad signature, or keys sent before.
        """
        if self._keys:
            raise ProtocolError(f"The mask keys for {self.session} came twice; a new attempt needs fresh keys.")
        if sorted(advert.name for advert in keys) != sorted(self._roster):
            raise ProtocolError(f"The mask keys for {self.session} are not those of the plan's hospitals.")
        if len({advert.key for advert in keys}) != len(keys):
            raise ProtocolError(f"Two hospitals advertise the same mask key for {self.session}.")
        for advert in keys:
            verify_mask_key(advert, self.session, identity=self._roster[advert.name])
        if self._advert not in keys:
            raise ProtocolError(f"The mask keys for {self.session} hold another key for {self._name} than its own.")
        self._keys = tuple(keys)

    def ready(self) -> None:
        """Check that a masked vector may be sent now, before anything is computed for it.

        Raises:
            ProtocolError: keys are missing, or the vector was sent already.
        """
        if not self._keys or self._key is None:
            raise ProtocolError(f"No masked vector can be sent for {self.session}: keys are missing or used up.")

    def mask(self, vector: Words, *, request: str) -> None:
        """Add all masks to `vector` in place: y = x + PRG(b) + Σ_{v>u} PRG(s_uv) − Σ_{v<u} PRG(s_uv).

        `request` is the digest of the request that is answered. The pairwise secrets are gone afterwards.
        """
        self.ready()
        assert self._key is not None and self._seed is not None
        key, self._key, self._request = self._key, None, request
        add_keystream(vector, self_mask_key(self._seed, self.session, name=self._name))
        for advert in self._keys:
            if advert.name != self._name:
                shared = pair_mask_key(key.agree(advert.key), self.session, first=self._name, second=advert.name)
                add_keystream(vector, shared, subtract=advert.name < self._name)

    def sign(self, survivors: Sequence[str]) -> bytes:
        """Sign this session's transcript for the given set of survivors, once.

        Raises:
            ProtocolError: out of order, a second set, or not the whole cohort (a dropped site cannot be recovered).
        """
        if self._request is None or self._signed is not None:
            raise ProtocolError(f"The survivors of {self.session} are signed once, after the masked vector.")
        if sorted(survivors) != sorted(self._roster):
            raise ProtocolError(f"The survivors of {self.session} are not the whole cohort; start a new attempt.")
        self._signed = transcript(
            self.session, plan=self._plan, request=self._request, keys=self._keys, survivors=survivors
        )
        return self._identity.sign(self._signed)

    def reveal(self, *, survivors: Sequence[str], dropped: Sequence[str], signatures: Mapping[str, bytes]) -> bytes:
        """The 32-byte seed of this site's own mask, once every survivor has signed the same transcript.

        Raises:
            ProtocolError: a dropped site, another set of survivors than the one signed, or a bad signature.
        """
        if self._signed is None or self._seed is None:
            raise ProtocolError(f"The self-mask of {self.session} is revealed once, after the survivors are signed.")
        if dropped:
            raise ProtocolError(
                f"{', '.join(sorted(dropped))} dropped out of {self.session}, and the masks of a dropped hospital "
                "are not revealed; start a new attempt with fresh keys."
            )
        assert self._request is not None
        claimed = transcript(self.session, plan=self._plan, request=self._request, keys=self._keys, survivors=survivors)
        if not hmac.compare_digest(claimed, self._signed) or set(signatures) != set(self._roster):
            raise ProtocolError(f"The survivors of {self.session} are not the set that this hospital signed.")
        for name, signature in signatures.items():
            check_signature(signature, self._signed, name=name, identity=self._roster[name], session=self.session)
        seed, self._seed = self._seed, None
        return seed


def check_signature(signature: bytes, signed: bytes, *, name: str, identity: bytes, session: Session) -> None:
    """Check one survivor's signature of the transcript digest `signed`.

    Raises:
        ProtocolError: `name` was told another plan, model, key or set of survivors, or did not sign.
    """
    if not verify(identity, signature, signed):
        raise ProtocolError(
            f"{name} did not sign the same transcript of {session}: it was told another plan, model or cohort."
        )
