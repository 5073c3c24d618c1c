"""One sum over the hospitals that stay: the rounds of a masked session, or one question in clear."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from primia.errors import ProtocolError
from primia.federation import messages as m
from primia.federation.channel import Channel, Dropped
from primia.federation.codec import content_digest
from primia.federation.plan import Plan
from primia.federation.rollcall import Phase, RollCall
from primia.federation.vectors import bytes_to_words
from primia.secagg.combine import RecoveryError, sum_of, unmask
from primia.secagg.countersigned import Countersigned
from primia.secagg.graph import neighbours
from primia.secagg.homomorphic import Adder
from primia.secagg.keys import SignedKeys, keys_digest, verify, verify_keys
from primia.secagg.masks import Words
from primia.secagg.sharing import Sealed
from primia.secagg.transcript import transcript


@dataclass(frozen=True)
class Sum:
    """The sum of the survivors' vectors modulo 2^32, who is missing from it or later fell silent, and the costs.

    `transcript` is what the survivors signed; None for a sum in clear.
    """

    total: Words
    survivors: tuple[str, ...]
    dropped: dict[str, Dropped]
    phases: dict[str, Phase]
    transcript: Countersigned | None


@dataclass(frozen=True)
class GroupKey:
    """Scheme ckks: the session's encryption key, which `maker` sealed for each of the others."""

    maker: str
    public: bytes
    sealed: Mapping[str, bytes]

    def fault(self, sites: Collection[str]) -> str | None:
        """Why the key is of no use to `sites`, or None."""
        if not set(sites) - {self.maker} <= set(self.sealed):
            return "it did not seal the encryption key for everybody"
        try:
            Adder(self.public)
        except ProtocolError as error:
            return str(error)
        return None

    def delivery(self, name: str) -> m.SealedGroupKey | None:
        """What `name` receives; nothing if it made the key."""
        if name == self.maker:
            return None
        return m.SealedGroupKey(maker=self.maker, public=self.public, secret=self.sealed[name])


def aggregate(
    channel: Channel,
    request: m.MaskedRequest,
    *,
    plan: Plan,
    sites: Sequence[str],
    needed: Collection[str] = (),
    absent: Mapping[str, Dropped] | None = None,
    size: int,
    deadline_s: float,
) -> Sum:
    """Ask `sites` a question and add their vectors of `size` words, modulo 2^32.

    A site that dies, is late, answers something else or refuses is dropped; its masks are recovered from the shares
    of the others. `needed` sites must be in the sum; `absent` ones are missing from the start.

    Raises:
        SessionError: fewer than the plan's threshold are left at some step, or a needed one is missing.
    """
    roll = RollCall(
        channel, request.session, plan=plan, needed=needed, dropped=dict(absent or {}), deadline_s=deadline_s
    )
    roll.check(sites)
    if not plan.masked:
        total, survivors = _total(roll, request, sites, size=size)
        return Sum(total, survivors, roll.dropped, roll.phases, transcript=None)
    keys = _advertise(roll, sites)
    sealed = _share(roll, keys, model=m.model_of(request))
    group_key = _make_group_key(roll, list(sealed)) if plan.encrypted else None
    accepted = _deliver(roll, sealed, keys=keys, group_key=group_key)
    if group_key is None:
        total, survivors = _total(roll, request, accepted, size=size)
    else:
        total, survivors = _encrypted_total(roll, request, accepted, public=group_key.public, size=size)
    roll.needed = set()  # they are in the sum; the threshold is enough to open it
    cohort = tuple(sorted(sealed))
    content = content_digest(request)
    signed = transcript(
        request.session,
        plan=plan.digest(),
        request=content,
        threshold=plan.threshold,
        keys=keys_digest(keys.values(), request.session),
        cohort=cohort,
        survivors=survivors,
    )
    signatures = _sign(roll, survivors, signed=signed)
    _open(roll, total, signatures, keys=keys, sealed=sealed, cohort=cohort, survivors=survivors, content=content)
    agreed = Countersigned(
        session=request.session,
        plan=plan.digest(),
        request=content,
        threshold=plan.threshold,
        keys=tuple(keys.values()),
        cohort=cohort,
        survivors=survivors,
        signatures=signatures,
    )
    return Sum(total, survivors, roll.dropped, roll.phases, transcript=agreed)


def _advertise(roll: RollCall, sites: Collection[str]) -> dict[str, SignedKeys]:
    """Round 0: the keys of the sites, checked as the other sites will check them."""
    with roll.phase("advertise"):
        adverts = roll.ask_all(sites, m.AdvertiseKeys(session=roll.session), m.KeyAdvert)
        keys = {name: advert.keys for name, advert in adverts.items()}
        for name in adverts:
            others = {key for other, k in keys.items() if other != name for key in (k.channel, k.mask)}
            roll.drop_if(name, keys, _wrong_keys(roll, name, keys[name], others=others))
        roll.check(keys)
    return keys


def _share(roll: RollCall, keys: Mapping[str, SignedKeys], *, model: str | None) -> dict[str, Sealed]:
    """Round 1: every site's secrets in sealed shares, one for each of its neighbours."""
    with roll.phase("share"):
        question = m.ShareKeys(session=roll.session, model=model, keys=tuple(keys.values()))
        sealed = {name: shares.sealed for name, shares in roll.ask_all(keys, question, m.Shares).items()}
        circle = neighbours(keys.values(), session=roll.session)
        for name, shares in list(sealed.items()):
            right = set(shares.shares) == set(circle[name]) and set(shares.commitments) == {name, *circle[name]}
            roll.drop_if(name, sealed, None if right else "it shared its secrets with other hospitals than asked")
        roll.check(sealed)
    return sealed


def _make_group_key(roll: RollCall, sites: Sequence[str]) -> GroupKey:
    """Scheme ckks: the session's key, from the first site that makes one."""
    with roll.phase("group_key"):
        for tried, maker in enumerate(sites, start=1):
            made = roll.ask_all([maker], m.MakeGroupKey(session=roll.session), m.GroupKey)
            if made:
                key = GroupKey(maker=maker, public=made[maker].public, sealed=made[maker].sealed)
                roll.drop_if(maker, made, key.fault(sites))
            if made:
                return key
            roll.check(sites[tried:])
    raise AssertionError("the check fails before the sites run out")


def _deliver(
    roll: RollCall, sealed: Mapping[str, Sealed], *, keys: Mapping[str, SignedKeys], group_key: GroupKey | None
) -> list[str]:
    """Start of round 2: hand every site of the cohort the shares that its neighbours sealed for it."""
    with roll.phase("deliver"):
        circle = neighbours(keys.values(), session=roll.session)
        requests = {
            name: m.DeliverShares(
                session=roll.session,
                cohort=tuple(sorted(sealed)),
                shares={sender: sealed[sender].shares[name] for sender in circle[name] if sender in sealed},
                group_key=None if group_key is None else group_key.delivery(name),
            )
            for name in sealed
            if name not in roll.dropped
        }
        accepted = list(roll.ask(requests, m.Accepted))
        roll.check(accepted)
    return accepted


def _total(
    roll: RollCall, request: m.MaskedRequest, sites: Collection[str], *, size: int
) -> tuple[Words, tuple[str, ...]]:
    """Round 2: the sum of one masked vector of `size` words from each site, and whose they are."""
    with roll.phase("masked_input"):
        raw = {name: answer.vector for name, answer in roll.ask_all(sites, request, m.MaskedInput).items()}
        for name, vector in list(raw.items()):
            roll.drop_if(name, raw, None if len(vector) == 4 * size else "its vector has the wrong length")
        roll.check(raw)
        return sum_of({name: bytes_to_words(vector) for name, vector in raw.items()}), tuple(sorted(raw))


def _encrypted_total(
    roll: RollCall, request: m.MaskedRequest, sites: Collection[str], *, public: bytes, size: int
) -> tuple[Words, tuple[str, ...]]:
    """Round 2 with the scheme ckks: the ciphertexts are added, and a survivor decrypts their sum."""
    adder = Adder(public)
    with roll.phase("masked_input"):
        raw = {name: answer.vector for name, answer in roll.ask_all(sites, request, m.MaskedInput).items()}
        for name, vector in list(raw.items()):
            roll.drop_if(name, raw, _unusable(adder, vector, words=size, sender=name))
        roll.check(raw)
        question = m.DecryptSum(session=roll.session, total=adder.add(raw, words=size), words=size)
    survivors = tuple(sorted(raw))
    with roll.phase("decrypt"):
        for tried, name in enumerate(survivors, start=1):
            answers = roll.ask_all([name], question, m.DecryptedSum)
            if name in answers and len(answers[name].vector) == 4 * size:
                return bytes_to_words(answers[name].vector), survivors
            roll.drop({name: Dropped("it decrypted the sum to another length")})
            roll.check(survivors[tried:])
    raise AssertionError("the check fails before the survivors run out")


def _sign(roll: RollCall, survivors: Sequence[str], *, signed: bytes) -> dict[str, bytes]:
    """Round 3: the survivors' signatures of the transcript digest `signed`."""
    with roll.phase("consistency"):
        question = m.Consistency(session=roll.session, survivors=tuple(survivors))
        signatures = {n: answer.signature for n, answer in roll.ask_all(survivors, question, m.Signed).items()}
        strangers = []
        for name, signature in list(signatures.items()):
            if not verify(bytes.fromhex(roll.plan.hospitals[name].identity), signature, signed):
                strangers.append(name)
                roll.drop_if(name, signatures, f"it signed another transcript of {roll.session}")
        if strangers:
            # It may have masked for another request: its masks would then stay in the sum, and nobody would notice.
            raise roll.failure(f"The masks of {roll.session} may not belong together", spoilers=strangers)
        roll.check(signatures)
    return signatures


def _open(
    roll: RollCall,
    total: Words,
    signatures: Mapping[str, bytes],
    *,
    keys: Mapping[str, SignedKeys],
    sealed: Mapping[str, Sealed],
    cohort: Sequence[str],
    survivors: Sequence[str],
    content: str,
) -> None:
    """Round 4: those who signed reveal their shares, and the masks are taken off `total` in place."""
    with roll.phase("unmask"):
        question = m.Unmask(
            session=roll.session,
            survivors=tuple(survivors),
            dropped=tuple(name for name in cohort if name not in survivors),
            signatures=dict(signatures),
        )
        revealed = roll.ask_all(signatures, question, m.Revealed)
        roll.check(revealed)
        try:
            false = unmask(
                total,
                session=roll.session,
                keys=keys,
                commitments={name: shares.commitments for name, shares in sealed.items()},
                cohort=cohort,
                survivors=survivors,
                revealed={name: answer.shares for name, answer in revealed.items()},
                threshold=roll.plan.threshold,
                request=content,
            )
        except RecoveryError as error:
            roll.drop({holder: Dropped(reason) for holder, reason in error.false.items()})
            roll.drop({error.owner: Dropped(str(error))})
            raise roll.failure(str(error).removesuffix(".")) from error
        roll.drop({holder: Dropped(reason) for holder, reason in false.items()})


def _wrong_keys(roll: RollCall, name: str, keys: SignedKeys, *, others: set[bytes]) -> str | None:
    try:
        verify_keys(keys, roll.session, identity=bytes.fromhex(roll.plan.hospitals[name].identity))
    except ProtocolError as error:
        return str(error)
    if keys.name != name:
        return f"it advertised keys in the name of {keys.name}"
    return "it advertised a key twice" if keys.mask == keys.channel or {keys.mask, keys.channel} & others else None


def _unusable(adder: Adder, vector: bytes, *, words: int, sender: str) -> str | None:
    try:
        adder.check(vector, words=words, sender=sender)
    except ProtocolError as error:
        return str(error)
    return None
