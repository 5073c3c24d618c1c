"""Who shares masks with whom: everybody up to 50 sites, above that a sparse ring (Bell et al. 2020).

The ring is the Harary graph of Bell et al. 2020 on a random order of the sites: each has the `degree` / 2 nearest
sites on either side as its neighbours, masks with them, and gives them the shares that recover it.

Two things must not happen: that the coordinator and the sites it colludes with hold enough shares of an honest site,
and that they split the honest survivors into two parts, each with a sum of its own. The second needs two arcs of
`degree` / 2 successive sites without an honest survivor. A site therefore signs a set of survivors only if more than
two thirds of every such arc survive, so that both arcs together hold more survivors than there are colluding sites,
whoever is dropped. Up to 100 sites with a degree of 50 this never fails for a colluding third (34 > 33); above that
it fails with the probability of `failure_probability`, and the degree grows with log(n) to keep it below 2^-40.
"""

import hashlib
import math
from collections.abc import Collection

from primia.secagg.keys import SignedKeys, keys_digest
from primia.secagg.session import Session, statement
from primia.secagg.threshold import threshold

COMPLETE_UP_TO = 50
_SMALLEST_DEGREE = 50
_FAILURE = 2.0**-40


def neighbours(keys: Collection[SignedKeys], *, session: Session) -> dict[str, tuple[str, ...]]:
    """The sites with which each site masks, given all keys of round 0; the relation is symmetric."""
    circle = ring(keys, session=session)
    if len(circle) <= COMPLETE_UP_TO:
        return {name: tuple(other for other in circle if other != name) for name in circle}
    reach = degree(len(circle)) // 2
    steps = [step for step in range(-reach, reach + 1) if step]
    return {
        name: tuple(circle[(position + step) % len(circle)] for step in steps) for position, name in enumerate(circle)
    }


def ring(keys: Collection[SignedKeys], *, session: Session) -> tuple[str, ...]:
    """The order of the sites on the circle: uniformly random, and fixed by the session and everybody's keys.

    No site knows its place before all keys are known; sorting by a hash is a permutation without bias.
    """
    seed = keys_digest(keys, session)
    names = sorted(advert.name for advert in keys)
    return tuple(sorted(names, key=lambda name: hashlib.sha256(statement("place", session, seed, name)).digest()))


def degree(sites: int) -> int:
    """Neighbours of each of `sites` sites: all others, or the fewest that keep the failure below 2^-40."""
    if sites <= COMPLETE_UP_TO:
        return sites - 1
    chosen = _SMALLEST_DEGREE
    while failure_probability(sites, degree=chosen, corrupt=sites - threshold(sites)) > _FAILURE:
        chosen += 2
    return chosen


def sharing_threshold(sites: int, *, plan_threshold: int) -> int:
    """How many shares recover a secret: the plan's threshold, or in a ring what a site's two arcs must hold."""
    return plan_threshold if sites <= COMPLETE_UP_TO else 2 * threshold(degree(sites) // 2)


def scattered(circle: tuple[str, ...], survivors: Collection[str]) -> bool:
    """Whether more than two thirds of every arc of half a degree survive; nothing to check in a complete graph."""
    if len(circle) <= COMPLETE_UP_TO:
        return True
    reach = degree(len(circle)) // 2
    alive = [name in survivors for name in circle] * 2
    return all(sum(alive[start : start + reach]) >= threshold(reach) for start in range(len(circle)))


def failure_probability(sites: int, *, degree: int, corrupt: int) -> float:
    """Bound on the probability that an honest site can be read, over the random order of the ring.

    The coordinator chooses whom it drops, within what the sites sign; `corrupt` sites collude with it. A failure
    needs 2·threshold(degree / 2) corrupt sites in one honest site's neighbourhood or in two disjoint arcs, which is
    a hypergeometric tail, times the number of such places. A coordinator that has colluding sites make keys until
    the order suits it multiplies a bound above 0 by the number of its trials.
    """
    needed = 2 * threshold(degree // 2)
    tail = sum(
        math.comb(corrupt, hits) * math.comb(sites - corrupt, degree - hits)
        for hits in range(needed, min(corrupt, degree) + 1)
    )
    places = sites + math.comb(sites, 2)
    return min(1.0, places * (tail / math.comb(sites, degree)))
