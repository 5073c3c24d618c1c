"""One whole session of secure aggregation in this process, every site's and the coordinator's CPU time apart."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from benchmarks.timing import Stopwatch, aes_keystream_s
from primia.federation import messages as m
from primia.federation.codec import decode_response, encode
from primia.federation.vectors import bytes_to_words, words_to_bytes
from primia.secagg.combine import sum_of, unmask
from primia.secagg.graph import neighbours
from primia.secagg.keys import Identity
from primia.secagg.masks import Words
from primia.secagg.participant import Participant
from primia.secagg.quantise import Quantiser, rounding_stream
from primia.secagg.session import Session
from primia.secagg.threshold import threshold
from primia.secagg.vector import Layout, Part

WORD = 4  # bytes, of a masked integer and of a float32
_QUANTISER = Quantiser(bits=20, limit=0.25)  # the defaults of params.yaml
_PLAN = hashlib.sha256(b"plan").hexdigest()
_REQUEST = hashlib.sha256(b"request").hexdigest()


@dataclass
class Measured:
    """What one session cost. Sites that dropped out are not counted: they did less.

    `sites`: work per surviving site, by phase. `messages`: encoding of all that a surviving site sends, likewise.
    `bytes_up`: encoded size of that. `masks`: keystreams per site. `limit_s`: CPU time of as many bare keystreams,
    taken anew after each site's masks.
    """

    sites: dict[str, Stopwatch]
    messages: dict[str, Stopwatch]
    coordinator: Stopwatch
    bytes_up: dict[str, int]
    masks: int = 0
    limit_s: list[float] = field(default_factory=list)
    exact: bool = False


def names_of(sites: int) -> list[str]:
    """Names of the simulated hospitals."""
    return [f"site-{number:03d}" for number in range(sites)]


def layout_of(sites: int, parameters: int) -> Layout:
    """The masked vector of a training round in which every site weighs one."""
    return Layout((Part("delta", parameters, sites * _QUANTISER.levels, signed=True), Part("weight", 1, sites)))


def delta_of(number: int, *, parameters: int, seed: int) -> NDArray[np.float64]:
    """(parameters,) change of one site, wide enough that entries are clipped throughout it: the slower case."""
    return np.random.default_rng([seed, number]).normal(0.0, _QUANTISER.limit / 4, parameters)


def run_session(*, sites: int, parameters: int, drop: int, seed: int, attempt: int) -> Measured:
    """Advertise, share, mask, sign and reveal; `drop` sites vanish between sharing their keys and sending a vector."""
    names = names_of(sites)
    survivors, dropped = names[drop:], names[:drop]
    session = Session(run=f"benchmark-{seed}", round=1, attempt=attempt, purpose="train")
    cost = Measured(
        sites={name: Stopwatch() for name in names},
        messages={name: Stopwatch() for name in names},
        coordinator=Stopwatch(),
        bytes_up=dict.fromkeys(names, 0),
    )

    def send(name: str, message: m.Message) -> bytes:
        with cost.messages[name].phase("encode"):
            raw = encode(message)
        cost.bytes_up[name] += len(raw)
        return raw

    identities = {name: Identity(Ed25519PrivateKey.generate()) for name in names}
    roster = {name: identity.public for name, identity in identities.items()}
    participants, keys = {}, {}
    for name in names:
        with cost.sites[name].phase("advertise"):
            participants[name] = Participant(
                name=name,
                identity=identities[name],
                session=session,
                plan=_PLAN,
                roster=roster,
                threshold=threshold(sites),
            )
            keys[name] = participants[name].advertise()
        send(name, m.KeyAdvert(session=session, keys=keys[name]))

    sealed = {}
    for name in names:
        with cost.sites[name].phase("share"):
            sealed[name] = participants[name].share(tuple(keys.values()))
        send(name, m.Shares(session=session, sealed=sealed[name]))

    for name in names:
        incoming = {owner: shares.shares[name] for owner, shares in sealed.items() if name in shares.shares}
        with cost.sites[name].phase("receive"):
            participants[name].receive(incoming, cohort=names)
        send(name, m.Accepted(session=session))

    graph = neighbours(keys.values(), session=session)
    cost.masks = max(len(near) for near in graph.values()) + 1
    layout, vectors = layout_of(sites, parameters), {}
    expected = np.zeros(layout.size, dtype=np.uint32)
    for name in survivors:
        delta = delta_of(names.index(name), parameters=parameters, seed=seed)
        with cost.sites[name].phase("quantise"):
            participants[name].ready()
            vector = layout.empty()
            stream = rounding_stream(seed, round=attempt, site=name)
            _QUANTISER.quantise(delta, stream, out=layout.signed_part(vector, "delta"))
            layout.pack({"weight": 1}, into=vector)
        expected += vector
        with cost.sites[name].phase("mask"):
            participants[name].mask(vector, request=_REQUEST)
        cost.limit_s.append(aes_keystream_s(streams=cost.masks, size=WORD * parameters))
        with cost.messages[name].phase("encode"):
            content = words_to_bytes(vector)
        vectors[name] = _received(send(name, m.MaskedInput(session=session, vector=content)))

    signatures = {}
    for name in survivors:
        with cost.sites[name].phase("sign"):
            signatures[name] = participants[name].sign(survivors)
        send(name, m.Signed(session=session, signature=signatures[name]))

    revealed = {}
    for name in survivors:
        with cost.sites[name].phase("reveal"):
            revealed[name] = participants[name].reveal(survivors=survivors, dropped=dropped, signatures=signatures)
        send(name, m.Revealed(session=session, shares=revealed[name]))

    with cost.coordinator.phase("sum"):
        total = sum_of(vectors)
    with cost.coordinator.phase("unmask"):
        unmask(
            total,
            session=session,
            keys=keys,
            commitments={name: shares.commitments for name, shares in sealed.items()},
            cohort=names,
            survivors=survivors,
            revealed=revealed,
            threshold=threshold(sites),
            request=_REQUEST,
        )
    cost.exact = bool(np.array_equal(total, expected))
    for name in dropped:
        del cost.sites[name], cost.messages[name], cost.bytes_up[name]
    return cost


def _received(raw: bytes) -> Words:
    message = decode_response(raw)
    assert isinstance(message, m.MaskedInput)
    return bytes_to_words(message.vector)
