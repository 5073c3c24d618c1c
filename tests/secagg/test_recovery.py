import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_sessions import NAMES, REQUEST, Cohort, random_words

from primia.errors import ProtocolError
from primia.secagg import shamir
from primia.secagg.combine import RecoveryError, sum_of, unmask
from primia.secagg.graph import ring
from primia.secagg.keys import SessionKey
from primia.secagg.quantise import Quantiser, rounding_stream
from primia.secagg.threshold import threshold
from primia.secagg.vector import Layout, Part

ROUNDS = ("advertise", "share", "mask", "sign", "reveal")


def run(count, leaves, plain):
    """A session in which site s leaves before the round `leaves[s]`."""

    def gone(round):
        return {name for name, when in leaves.items() if when == round}

    cohort = Cohort(count).advertise(gone("advertise")).share(gone("share")).receive()
    return cohort.mask(plain, gone("mask")).sign(gone("sign")).reveal(gone("reveal"))


def patterns(count):
    """Every way in which as many sites as the threshold allows leave before some round each."""
    for size in range(count - threshold(count) + 1):
        for who in itertools.combinations(NAMES[:count], size):
            for when in itertools.product(ROUNDS, repeat=size):
                yield dict(zip(who, when, strict=True))


@pytest.mark.parametrize("count", [3, 4, 5, 6])
def test_the_sum_is_exact_whoever_leaves_before_whichever_round(count):
    plain = random_words(NAMES[:count], seed=count)
    for leaves in patterns(count):
        cohort = run(count, leaves, plain)
        total, false = cohort.unmask()
        assert total.tolist() == cohort.expected().tolist(), leaves
        assert not false


@pytest.mark.parametrize("count", [7, 8, 9, pytest.param(10, marks=pytest.mark.system)])
def test_the_sum_is_exact_for_every_set_of_sites_whose_vectors_do_not_arrive(count):
    started = Cohort(count).advertise().share().receive().mask(random_words(NAMES[:count], seed=count))
    for size in range(count - threshold(count) + 1):
        for lost in itertools.combinations(started.names, size):
            cohort = started.copied()
            cohort.vectors = {name: vector for name, vector in started.vectors.items() if name not in lost}
            # As few as may be sign and answer.
            cohort.sign(list(cohort.vectors)[cohort.threshold :]).reveal()
            total, _ = cohort.unmask()
            assert total.tolist() == cohort.expected().tolist(), lost


@given(data=st.data(), count=st.integers(7, 10), words=st.integers(0, 20))
@settings(max_examples=15, deadline=None)
def test_the_sum_is_exact_for_any_leavers_of_larger_cohorts(data, count, words):
    who = data.draw(st.lists(st.sampled_from(NAMES[:count]), unique=True, max_size=count - threshold(count)))
    leaves = {name: data.draw(st.sampled_from(ROUNDS)) for name in who}
    cohort = run(count, leaves, random_words(NAMES[:count], words=words, seed=count))
    total, _ = cohort.unmask()
    assert total.tolist() == cohort.expected().tolist()


@given(
    count=st.integers(3, 7),
    size=st.integers(0, 300),
    bits=st.integers(8, 20),
    weights=st.lists(st.integers(0, 400), min_size=7, max_size=7),
    seed=st.integers(0, 2**32 - 1),
    lost=st.integers(0, 6),
)
@settings(max_examples=25, deadline=None)
def test_weighted_quantised_vectors_sum_to_the_plain_integers(count, size, bits, weights, seed, lost):
    quantiser, random = Quantiser(bits=bits, limit=0.5), np.random.default_rng(seed)
    layout = Layout(
        (Part("delta", size, min(quantiser.levels * 4096, 2**31 - 1), signed=True), Part("weight", 1, 4096))
    )
    plain, integers = {}, {}
    for name, weight in zip(NAMES[:count], weights, strict=False):
        delta, stream = random.normal(0, 0.3, size), rounding_stream(seed, round=1, site=name)
        integers[name], _ = quantiser.quantise(delta, stream, weight=weight)
        plain[name] = layout.pack({"delta": integers[name], "weight": weight})
    leaves = {NAMES[lost % count]: "mask"} if count > 3 else {}
    cohort = run(count, leaves, plain)
    parts = layout.unpack(cohort.unmask()[0])
    assert parts["delta"].tolist() == sum(integers[name].astype(np.int64) for name in cohort.vectors).tolist()
    assert parts["weight"].tolist() == [sum(w for n, w in zip(NAMES, weights, strict=False) if n in cohort.vectors)]


@pytest.fixture(scope="module", params=[60, pytest.param(100, marks=pytest.mark.system)])
def sparse(request):
    """A sparse graph in which a site left before round 0 and one before round 1."""
    cohort = Cohort(request.param).advertise([NAMES[7]]).share([NAMES[30]]).receive()
    return cohort.mask(random_words(cohort.names))


def test_a_sparse_graph_recovers_sites_that_leave_at_every_round(sparse):
    cohort = sparse.copied()
    lost = np.random.default_rng(1).permutation(list(cohort.vectors))[
        :6
    ]  # with two gone before, never too many of one arc
    cohort.vectors = {name: vector for name, vector in cohort.vectors.items() if name not in lost}
    late = list(cohort.vectors)[3::20]
    cohort.sign(late[::2]).reveal(late[1::2])
    total, false = cohort.unmask()
    assert set(cohort.dropped) == set(lost)
    assert total.tolist() == cohort.expected().tolist()
    assert not false
    assert {len(sealed.shares) for sealed in cohort.sealed.values()} == {50}


def test_sites_do_not_sign_away_a_whole_arc_of_a_sparse_graph(sparse):
    circle = ring(list(sparse.keys.values()), session=sparse.session)
    survivors = [name for name in sparse.vectors if name not in circle[20:29]]
    with pytest.raises(ProtocolError, match="too many neighbours of each other"):
        sparse.copied().sites[survivors[0]].sign(survivors)


def five_with_one_lost():
    cohort = Cohort(5).advertise().share().receive()
    return cohort.mask(random_words(cohort.names), without=[NAMES[4]]).sign().reveal()


def changed(share):
    return (int.from_bytes(share) ^ 1).to_bytes(len(share))


@pytest.mark.parametrize("lie", [changed, lambda share: share[:-1], lambda share: share + b"\0", lambda share: b""])
def test_a_holder_that_gives_a_false_share_is_found_and_the_sum_stays_right(lie):
    cohort = Cohort(5).advertise().share().receive().mask(random_words(NAMES[:5])).sign().reveal()
    liar, owner = NAMES[1], NAMES[3]
    cohort.revealed[liar] = {**cohort.revealed[liar], owner: lie(cohort.revealed[liar][owner])}
    total, false = cohort.unmask()
    assert total.tolist() == cohort.expected().tolist()
    assert false == {liar: f"its share of {owner} does not match the commitment"}


def test_a_holder_that_gives_the_share_of_another_owner_or_of_the_other_secret_is_found():
    cohort = five_with_one_lost()
    before = sum_of(cohort.vectors)
    owner, liar = cohort.dropped[0], NAMES[0]
    cohort.revealed[liar] = {**cohort.revealed[liar], owner: cohort.revealed[liar][NAMES[1]]}
    with pytest.raises(RecoveryError, match=owner) as caught:  # four holders are left and four shares needed
        cohort.unmask()
    assert caught.value.owner == owner
    assert list(caught.value.false) == [liar]
    np.testing.assert_array_equal(before, sum_of(cohort.vectors))


def test_an_owner_that_committed_to_other_shares_than_it_dealt_is_blamed_and_not_its_honest_holders():
    cohort = Cohort(5).advertise().share().receive().mask(random_words(NAMES[:5])).sign().reveal()
    liar = NAMES[3]
    commitments = dict.fromkeys(cohort.sealed[liar].commitments, bytes(64))
    cohort.sealed[liar] = cohort.sealed[liar].model_copy(update={"commitments": commitments})
    with pytest.raises(RecoveryError, match="0 good shares are fewer than 4") as caught:
        cohort.unmask()
    assert caught.value.owner == liar
    assert caught.value.false == {}


def test_too_few_answers_name_the_first_site_that_cannot_be_recovered_and_leave_the_total_alone():
    cohort = five_with_one_lost()
    del cohort.revealed[NAMES[2]]
    total = sum_of(cohort.vectors)
    before = total.copy()
    with pytest.raises(RecoveryError, match="3 good shares are fewer than 4; start a new attempt"):
        unmask(
            total,
            session=cohort.session,
            keys=cohort.keys,
            commitments={name: sealed.commitments for name, sealed in cohort.sealed.items()},
            cohort=list(cohort.sealed),
            survivors=list(cohort.vectors),
            revealed=cohort.revealed,
            threshold=cohort.threshold,
            request=REQUEST,
        )
    np.testing.assert_array_equal(total, before)


def test_an_owner_that_shared_another_key_than_it_advertised_is_named():
    cohort = Cohort(5).advertise()
    cohort.sites[NAMES[4]]._mask = SessionKey()  # a lying site's own doing
    cohort.share().receive().mask(random_words(cohort.names), without=[NAMES[4]]).sign().reveal()
    with pytest.raises(RecoveryError, match="another key than it advertised") as caught:
        cohort.unmask()
    assert caught.value.owner == NAMES[4]


def test_what_a_site_reveals_is_a_seed_share_of_survivors_and_a_key_share_of_the_dropped():
    cohort = five_with_one_lost()
    lost = cohort.dropped[0]
    places = {name: place for place, name in enumerate(sorted(cohort.keys), start=1)}
    shares = {places[holder]: revealed[lost] for holder, revealed in cohort.revealed.items()}
    recovered = SessionKey(shamir.combine(shares, threshold=cohort.threshold))
    assert recovered.public == cohort.keys[lost].mask
    assert all(set(revealed) == set(cohort.sealed) for revealed in cohort.revealed.values())


def test_the_seeds_of_self_masks_use_all_their_256_bits():
    # Bits that never change would betray a seed drawn from fewer. Chance of a false alarm: 256 · 2 · 2^-149.
    bits = []
    for _ in range(50):
        cohort = Cohort(3).masked().sign().reveal()
        for owner in cohort.names:
            shares = {place: cohort.revealed[holder][owner] for place, holder in enumerate(cohort.names, start=1)}
            seed = shamir.combine(shares, threshold=3)
            bits.append(np.unpackbits(np.frombuffer(seed, dtype=np.uint8)))
    assert np.all(np.ptp(np.array(bits), axis=0) == 1)
