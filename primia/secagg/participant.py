"""A site's side of one session of double masking (Bonawitz et al. 2017, active-adversary variant)."""

import os
from collections.abc import Collection, Mapping, Sequence
from enum import IntEnum

from primia.errors import ProtocolError, SiteRefusal
from primia.secagg import graph, sharing
from primia.secagg.keys import NO_LEDGER, Identity, SessionKey, SignedKeys, keys_digest, sign_keys, verify_keys
from primia.secagg.masks import Words, add_keystreams, pair_mask_key, self_mask_key
from primia.secagg.sealing import open_message, seal_message
from primia.secagg.session import Session
from primia.secagg.sharing import Pair, Sealed
from primia.secagg.threshold import MINIMUM_COHORT, check_cohort, check_threshold
from primia.secagg.transcript import check_signatures, transcript


class _Step(IntEnum):
    """The last step done."""

    NONE = 0
    ADVERTISED = 1
    SHARED = 2
    RECEIVED = 3
    MASKED = 4
    SIGNED = 5
    REVEALED = 6


class Participant:
    """One site in one session; its methods are called once each, in the order in which they stand here.

    Every method raises ProtocolError when it is called out of order or a second time. A call that fails changes
    nothing.
    """

    def __init__(
        self,
        *,
        name: str,
        identity: Identity,
        session: Session,
        plan: str,
        roster: Mapping[str, bytes],
        threshold: int,
        ledger: bytes = NO_LEDGER,
    ) -> None:
        """`roster` holds the pinned Ed25519 public key of every site of the plan; `plan` is the plan's digest.

        `ledger` is the head of this site's privacy ledger, 32 bytes.

        Raises:
            SiteRefusal: the cohort is too small to hide anybody, or the threshold too low for a lying coordinator.
        """
        check_cohort(len(roster))
        check_threshold(threshold, sites=len(roster))
        assert roster[name] == identity.public
        self.session = session
        self._name, self._identity, self._plan = name, identity, plan
        self._roster, self._threshold, self._ledger = dict(roster), threshold, ledger
        self._step = _Step.NONE
        self._channel: SessionKey | None = SessionKey()
        self._mask: SessionKey | None = SessionKey()
        self._seed: bytes | None = os.urandom(32)
        self._has_sealed = False
        self._held: dict[str, Pair] = {}  # shares of others' secrets, and of its own, by owner

    def advertise(self) -> SignedKeys:
        """Round 0: this session's public keys, signed."""
        self._expect(_Step.NONE)
        assert self._channel is not None and self._mask is not None
        self._advert = sign_keys(
            self._identity,
            self.session,
            name=self._name,
            channel=self._channel.public,
            mask=self._mask.public,
            ledger=self._ledger,
        )
        self._step = _Step.ADVERTISED
        return self._advert

    def share(self, keys: Sequence[SignedKeys]) -> Sealed:
        """Round 1: check everybody's keys, and share the two secrets of this site among its neighbours.

        Raises:
            ProtocolError: too few or unknown sites, a key used twice, a bad signature, or another key in this name.
        """
        self._expect(_Step.ADVERTISED)
        self._check_keys(keys)
        assert self._channel is not None and self._mask is not None and self._seed is not None
        self._keys = {advert.name: advert for advert in sorted(keys, key=lambda advert: advert.name)}
        self._ring = graph.ring(keys, session=self.session)
        self._neighbours = graph.neighbours(keys, session=self.session)[self._name]
        self._keys_digest = keys_digest(keys, self.session)
        places = {name: place for place, name in enumerate(self._keys, start=1)}
        pairs = sharing.split(
            self._seed,
            self._mask.private_bytes(),
            threshold=graph.sharing_threshold(len(keys), plan_threshold=self._threshold),
            places={name: places[name] for name in (self._name, *self._neighbours)},
        )
        sealed = Sealed(
            shares={
                name: sharing.seal(
                    pairs[name],
                    self._channel.agree(self._keys[name].channel),
                    self.session,
                    sender=self._name,
                    recipient=name,
                    keys=self._keys_digest,
                )
                for name in self._neighbours
            },
            commitments={
                name: pair.commitment(self.session, owner=self._name, holder=name) for name, pair in pairs.items()
            },
        )
        self._held[self._name] = pairs[self._name]
        self._step = _Step.SHARED
        return sealed

    def _check_keys(self, keys: Sequence[SignedKeys]) -> None:
        names = {advert.name for advert in keys}
        if len(names) != len(keys) or not names <= set(self._roster):
            raise ProtocolError(f"The keys for {self.session} are not those of different hospitals of the plan.")
        self._check_floor(names, what="hospitals with keys")
        if len({key for advert in keys for key in (advert.channel, advert.mask)}) != 2 * len(keys):
            raise ProtocolError(f"Two hospitals advertise the same key for {self.session}.")
        for advert in keys:
            verify_keys(advert, self.session, identity=self._roster[advert.name])
        if self._advert not in keys:
            raise ProtocolError(f"The keys for {self.session} hold no or another key for {self._name} than its own.")

    def seal(self, message: bytes) -> dict[str, bytes]:
        """After round 1: the message sealed for every other site with keys, once a session."""
        self._expect(_Step.SHARED)
        assert self._channel is not None and not self._has_sealed
        self._has_sealed = True  # a second message under the same key would give both away
        return {
            name: seal_message(
                message,
                self._channel.agree(advert.channel),
                self.session,
                sender=self._name,
                recipient=name,
                keys=self._keys_digest,
            )
            for name, advert in self._keys.items()
            if name != self._name
        }

    def unseal(self, sealed: bytes, *, sender: str) -> bytes:
        """After round 1: read the message that another site sealed for this one.

        Raises:
            ProtocolError: an unknown sender, or the message does not open.
        """
        self._expect(_Step.SHARED)
        assert self._channel is not None
        if sender not in self._keys or sender == self._name:
            raise ProtocolError(f"{sender} has no keys in {self.session}; it cannot have sealed a message.")
        return open_message(
            sealed,
            self._channel.agree(self._keys[sender].channel),
            self.session,
            sender=sender,
            recipient=self._name,
            keys=self._keys_digest,
        )

    def receive(self, shares: Mapping[str, bytes], *, cohort: Sequence[str]) -> None:
        """Start of round 2: open the shares of the neighbours within `cohort`, the sites that finished round 1.

        Raises:
            ProtocolError: a wrong cohort, missing or needless shares, or shares that do not open.
        """
        self._expect(_Step.SHARED)
        self._check_set(cohort, among=self._keys, what="cohort")
        expected = set(self._neighbours) & set(cohort)
        if set(shares) != expected:
            strange = ", ".join(sorted(expected ^ set(shares)))
            raise ProtocolError(f"The shares for {self.session} are not those of the neighbours: see {strange}.")
        assert self._channel is not None
        opened = {}
        for sender in sorted(shares):
            opened[sender] = sharing.unseal(
                shares[sender],
                self._channel.agree(self._keys[sender].channel),
                self.session,
                sender=sender,
                recipient=self._name,
                keys=self._keys_digest,
            )
        self._held |= opened
        self._cohort, self._channel = frozenset(cohort), None
        self._step = _Step.RECEIVED

    def ready(self) -> None:
        """Check that `mask` may be called now, before anything is computed for it."""
        self._expect(_Step.RECEIVED)

    def mask(self, vector: Words, *, request: str) -> None:
        """Round 2: add all masks to `vector` in place: y = x + PRG(b) + Σ_{v>u} PRG(s_uv) − Σ_{v<u} PRG(s_uv).

        v runs over the neighbours in the cohort. `request` is the digest of the request that is answered; sites
        that answer different ones have masks that do not cancel (see `pair_mask_key`). The
        secrets of this site are gone afterwards; only the shares among its neighbours bring them back.
        """
        self.ready()
        assert self._mask is not None and self._seed is not None
        keys = {self._name: self_mask_key(self._seed, self.session, name=self._name)}
        for name in self._neighbours:
            if name in self._cohort:
                secret = self._mask.agree(self._keys[name].mask)
                keys[name] = pair_mask_key(secret, self.session, first=self._name, second=name, request=request)
        self._mask = self._seed = None
        self._request, self._step = request, _Step.MASKED
        add_keystreams(
            vector,
            added=[key for name, key in keys.items() if name >= self._name],
            subtracted=[key for name, key in keys.items() if name < self._name],
        )

    def sign(self, survivors: Sequence[str]) -> bytes:
        """Round 3: sign this session's transcript for the given survivors, the sites whose vectors arrived.

        Raises:
            ProtocolError: not survivors of this cohort, or too few of them.
        """
        self._expect(_Step.MASKED)
        self._check_set(survivors, among=self._cohort, what="survivors")
        if not graph.scattered(self._ring, set(survivors)):
            raise ProtocolError(
                f"The hospitals that dropped out of {self.session} are too many neighbours of each other to hide the "
                "others; start a new attempt with those present."
            )
        self._survivors = frozenset(survivors)
        self._signed = transcript(
            self.session,
            plan=self._plan,
            request=self._request,
            threshold=self._threshold,
            keys=self._keys_digest,
            cohort=self._cohort,
            survivors=survivors,
        )
        self._step = _Step.SIGNED
        return self._identity.sign(self._signed)

    def reveal(
        self, *, survivors: Sequence[str], dropped: Sequence[str], signatures: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Round 4: for every neighbour one 33-byte share, of the seed of a survivor or the mask key of a dropped site.

        Never both: the two lists are disjoint, and this method answers once.

        Raises:
            ProtocolError: another set of survivors than the one signed, a name in both lists or in none, or fewer
                valid signatures than the threshold.
        """
        self._expect(_Step.SIGNED)
        if set(survivors) & set(dropped):
            both = ", ".join(sorted(set(survivors) & set(dropped)))
            raise ProtocolError(f"{both} cannot both have survived and dropped out of {self.session}.")
        if set(survivors) != self._survivors:
            raise ProtocolError(f"The survivors of {self.session} are not the set that this hospital signed.")
        if set(survivors) | set(dropped) != self._cohort:
            raise ProtocolError(f"The dropped hospitals of {self.session} are not the rest of its cohort.")
        if not set(signatures) <= self._survivors:
            raise ProtocolError(f"Somebody signed the survivors of {self.session} without being one of them.")
        self._check_floor(signatures, what="signatures")
        check_signatures(signatures, self._signed, identities=self._roster, session=self.session)
        held, self._held, self._step = self._held, {}, _Step.REVEALED
        return {owner: pair.seed if owner in self._survivors else pair.mask_key for owner, pair in held.items()}

    def _expect(self, done: _Step) -> None:
        if self._step != done:
            raise ProtocolError(
                f"A request for {self.session} came out of order or a second time (the last step done is "
                f"{self._step.name.lower()}); start a new attempt with fresh keys."
            )

    def _check_set(self, names: Sequence[str], *, among: Collection[str], what: str) -> None:
        if len(set(names)) != len(names) or not set(names) <= set(among) or self._name not in names:
            raise ProtocolError(
                f"The {what} of {self.session} must be different hospitals of the step before, {self._name} included."
            )
        self._check_floor(names, what=what)

    def _check_floor(self, names: Collection[str], *, what: str) -> None:
        if len(names) < max(self._threshold, MINIMUM_COHORT):
            raise SiteRefusal(
                f"{len(names)} {what} of {self.session} are fewer than the threshold of {self._threshold}; "
                "start a new attempt when enough hospitals are present."
            )
