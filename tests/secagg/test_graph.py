import itertools
import math
from collections import Counter

import pytest
from scipy.stats import chisquare

from primia.secagg.graph import (
    COMPLETE_UP_TO,
    degree,
    failure_probability,
    neighbours,
    ring,
    scattered,
    sharing_threshold,
)
from primia.secagg.keys import SignedKeys
from primia.secagg.session import Session
from primia.secagg.threshold import threshold

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")


def adverts(count, *, salt=0):
    return [
        SignedKeys(
            name=f"site-{number:03d}",
            channel=number.to_bytes(16) + salt.to_bytes(16),
            mask=b"\1" + number.to_bytes(15) + salt.to_bytes(16),
            signature=bytes(64),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("count", [3, 10, COMPLETE_UP_TO])
def test_up_to_fifty_sites_everybody_is_a_neighbour(count):
    keys = adverts(count)
    names = {advert.name for advert in keys}
    assert {name: set(near) for name, near in neighbours(keys, session=SESSION).items()} == {
        name: names - {name} for name in names
    }
    assert sharing_threshold(count, plan_threshold=7) == 7


@pytest.mark.parametrize("count", [51, 60, 77, 100])
def test_above_fifty_sites_each_has_the_nearest_twenty_five_on_either_side_of_the_ring(count):
    keys = adverts(count)
    circle, near = ring(keys, session=SESSION), neighbours(keys, session=SESSION)
    assert sorted(circle) == [advert.name for advert in keys]
    assert {len(set(others)) for others in near.values()} == {50}
    for place, name in enumerate(circle):
        for step in range(1, 26):
            other = circle[(place + step) % count]
            assert other in near[name] and name in near[other]


def test_the_ring_is_the_same_for_all_and_another_for_other_keys_or_another_session():
    keys = adverts(60)
    assert ring(keys, session=SESSION) == ring(keys[::-1], session=SESSION)
    changed = [*adverts(59), adverts(60, salt=1)[59]]
    orders = {
        ring(keys, session=SESSION),
        ring(changed, session=SESSION),
        ring(keys, session=SESSION.model_copy(update={"attempt": 2})),
    }
    assert len(orders) == 3


def test_the_ring_is_a_known_answer():
    # Written down when protocol version 3 was fixed: a change here is a new protocol version.
    assert [name[-1] for name in ring(adverts(10), session=SESSION)] == list(KNOWN)


KNOWN = "1340582796"


def test_every_order_of_the_ring_is_equally_likely():
    # Fixed inputs, so that this either always passes or never.
    orders = Counter(ring(adverts(4, salt=salt), session=SESSION) for salt in range(2400))
    assert len(orders) == math.factorial(4)
    assert chisquare(list(orders.values())).pvalue > 1e-3


def test_a_site_costs_the_same_for_sixty_sites_and_for_a_hundred():
    assert [degree(sites) for sites in (3, 10, 50, 51, 60, 80, 100)] == [2, 9, 49, 50, 50, 50, 50]
    assert sharing_threshold(100, plan_threshold=67) == sharing_threshold(60, plan_threshold=41) == 34


def test_up_to_a_hundred_sites_a_colluding_third_never_reads_an_honest_site():
    for sites in range(COMPLETE_UP_TO + 1, 101):
        corrupt = sites - threshold(sites)
        assert failure_probability(sites, degree=degree(sites), corrupt=corrupt) == 0.0
        assert corrupt < 2 * threshold(degree(sites) // 2)  # too few for any two arcs, whoever is dropped


def test_for_more_sites_the_degree_grows_like_a_logarithm():
    degrees = {sites: degree(sites) for sites in (150, 300, 1000, 3000)}
    for sites, chosen in degrees.items():
        assert 0 < failure_probability(sites, degree=chosen, corrupt=sites - threshold(sites)) <= 2**-40
    assert all(chosen < 16 * math.log2(sites) for sites, chosen in degrees.items())


def test_the_failure_probability_bounds_what_counting_gives():
    # 9 sites on a ring, 4 neighbours each, all sets of corrupt sites: one fails if it holds two neighbours on either
    # side of an honest site, or two disjoint arcs of two sites.
    sites, half = 9, 2
    for corrupt in range(sites):
        failures = 0
        for chosen in itertools.combinations(range(sites), corrupt):
            full = [start for start in range(sites) if {start, (start + 1) % sites} <= set(chosen)]
            around = any(
                {(site + step) % sites for step in (-2, -1, 1, 2)} <= set(chosen)
                for site in range(sites)
                if site not in chosen
            )
            arcs = any(half <= (b - a) % sites <= sites - half for a, b in itertools.combinations(full, 2))
            failures += around or arcs
        exact = failures / math.comb(sites, corrupt)
        bound = failure_probability(sites, degree=2 * half, corrupt=corrupt)
        assert exact <= bound <= 1
        assert (bound == 0) == (corrupt < 4)


def test_a_set_of_survivors_that_leaves_a_gap_in_the_ring_is_not_scattered():
    circle = tuple(f"site-{number:03d}" for number in range(60))
    for start in (0, 17, 50):  # nine successive sites of 25 are more than a third, even across the end of the list
        gone = {circle[(start + step) % 60] for step in range(9)}
        assert not scattered(circle, set(circle) - gone)
        gone.discard(circle[(start + 4) % 60])
        assert scattered(circle, set(circle) - gone)
    assert scattered(circle[:50], set(circle[:34]))  # a complete graph needs the threshold only
