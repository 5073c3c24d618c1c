"""One session at a site: the protocol of `secagg`, and what this hospital demands on top of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from primia.errors import ProtocolError
from primia.federation import messages as m
from primia.federation.floors import Floors, check_survivors
from primia.federation.plan import Plan
from primia.federation.released_sums import ReleasedSums
from primia.federation.vectors import words_to_bytes
from primia.secagg.homomorphic import KeyHolder, generate
from primia.secagg.keys import Identity, SignedKeys
from primia.secagg.masks import Words
from primia.secagg.participant import Participant
from primia.secagg.session import Session
from primia.secagg.sharing import Sealed


@dataclass(frozen=True)
class Guard:
    """What a session must not pass by: the owner's floors (and their file), and the sums that were given away."""

    floors: Floors
    path: Path
    sums: ReleasedSums


class SiteSession:
    """A `Participant` whose every step is held against the guard; its methods are called once each, in this order.

    With the scheme ckks the masked vectors travel encrypted under a key that one of the sites makes for the session.
    The masks stay: a coordinator that colludes with one site, which has the key, still reads nothing.
    """

    def __init__(
        self, session: Session, plan: Plan, *, name: str, identity: Identity, guard: Guard, ledger: bytes
    ) -> None:
        """`ledger` is the head of the site's ledger; raises `SiteRefusal` if the plan's threshold is too low."""
        self.session = session
        self._guard = guard
        # A private answer has fresh noise, charged anew: no two of them differ by one site's contribution alone.
        self._fresh_noise = plan.privacy is not None
        self._model: str | None = None
        self._encrypted, self._words = plan.encrypted, 0
        self._holder: KeyHolder | None = None
        self._participant = Participant(
            name=name,
            identity=identity,
            session=session,
            plan=plan.digest(),
            roster={name: bytes.fromhex(hospital.identity) for name, hospital in plan.hospitals.items()},
            threshold=plan.threshold,
            ledger=ledger,
        )

    def advertise(self) -> SignedKeys:
        """Round 0."""
        return self._participant.advertise()

    def share(self, request: m.ShareKeys) -> Sealed:
        """Round 1; raises `CohortRefusal` if the sum could only be another one than was given before."""
        self._model = request.model
        self._check_possible([keys.name for keys in request.keys])
        return self._participant.share(request.keys)

    def make_group_key(self) -> m.GroupKey:
        """Scheme ckks, after round 1: a fresh key, sealed for each of the others.

        Raises:
            ProtocolError: the plan has another scheme, or there is a key already.
        """
        if not self._encrypted or self._holder is not None:
            raise ProtocolError(f"No encryption key can be made in {self.session} now.")
        secret, public = generate()
        sealed = self._participant.seal(secret)
        self._holder = KeyHolder(secret, public)
        return m.GroupKey(session=self.session, public=public, sealed=sealed)

    def receive(self, request: m.DeliverShares) -> None:
        """The start of round 2; raises as `share` does."""
        self._check_possible(request.cohort)
        if self._encrypted and self._holder is None:
            key = request.group_key
            if key is None:
                raise ProtocolError(f"The encryption key of {self.session} is missing; start a new attempt.")
            self._holder = KeyHolder(self._participant.unseal(key.secret, sender=key.maker), key.public)
        self._participant.receive(request.shares, cohort=request.cohort)

    def ready(self, request: m.MaskedRequest) -> None:
        """Check that the question may be answered, before anything is computed for it.

        Raises:
            ProtocolError: out of order, or about another model than announced.
        """
        if m.model_of(request) != self._model:
            raise ProtocolError(f"{self.session} was announced for another model than it asks about.")
        self._participant.ready()

    def mask(self, vector: Words, *, request: str) -> bytes:
        """Round 2: the bytes of `vector` masked, and encrypted with ckks; `request` is the digest of the question."""
        self._participant.mask(vector, request=request)
        self._words = len(vector)
        return words_to_bytes(vector) if self._holder is None else self._holder.encrypt(vector)

    def decrypt(self, request: m.DecryptSum) -> m.DecryptedSum:
        """Scheme ckks, after round 2: the sum of masked vectors, which only round 4 makes readable.

        Raises:
            ProtocolError: before this site's own vector, twice, or no such sum.
        """
        holder, self._holder = self._holder, None
        if holder is None or self._words != request.words:
            raise ProtocolError(f"A sum is decrypted once in {self.session}, after the masked vectors.")
        total = holder.decrypt(request.total, words=request.words)
        return m.DecryptedSum(session=self.session, vector=words_to_bytes(total))

    def sign(self, survivors: Sequence[str]) -> bytes:
        """Round 3; raises `SiteRefusal` below the floors and `CohortRefusal` for another company than before."""
        check_survivors(self._guard.floors, len(survivors), path=self._guard.path)
        if not self._fresh_noise:
            self._guard.sums.check(self.session.purpose, self._model, survivors=survivors)
        return self._participant.sign(survivors)

    def reveal(self, request: m.Unmask) -> dict[str, bytes]:
        """Round 4; that the sum is given away is on the disk before this returns."""
        shares = self._participant.reveal(
            survivors=request.survivors, dropped=request.dropped, signatures=request.signatures
        )
        if not self._fresh_noise:
            self._guard.sums.add(self.session.purpose, self._model, survivors=request.survivors)
        return shares

    def _check_possible(self, present: Sequence[str]) -> None:
        if not self._fresh_noise:
            self._guard.sums.check_possible(self.session.purpose, self._model, present=present)
