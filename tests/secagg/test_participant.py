import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from primia.errors import ProtocolError, SiteRefusal
from primia.secagg.combine import remove_self_masks, sum_of
from primia.secagg.keys import Identity, MaskKey, sign_mask_key
from primia.secagg.participant import Participant
from primia.secagg.quantise import Quantiser, rounding_stream
from primia.secagg.session import Session
from primia.secagg.vector import Layout, Part

SESSION = Session(run="run-0001", round=1, attempt=1, purpose="train")
REQUEST = hashlib.sha256(b"request").hexdigest()
NAMES = ("hill", "north", "river", "delta", "east", "ford", "gate", "inn", "jade", "kirk")
IDENTITIES = {name: Identity(Ed25519PrivateKey.generate()) for name in NAMES}


def cohort(count, *, plans=None, session=SESSION):
    names = NAMES[:count]
    roster = {name: IDENTITIES[name].public for name in names}
    return {
        name: Participant(
            name=name,
            identity=IDENTITIES[name],
            session=session,
            plan=(plans or {}).get(name, "plan"),
            roster=roster,
        )
        for name in names
    }


def with_keys(sites):
    keys = [site.advertise() for site in sites.values()]
    for site in sites.values():
        site.accept(keys)
    return sites


def masked(sites, plain, *, requests=None):
    vectors = {name: plain[name].copy() for name in sites}
    for name, site in sites.items():
        site.mask(vectors[name], request=(requests or {}).get(name, REQUEST))
    return vectors


def zeros(sites):
    return {name: np.zeros(4, dtype=np.uint32) for name in sites}


def unmasked(sites, vectors):
    survivors = list(sites)
    signatures = {name: site.sign(survivors) for name, site in sites.items()}
    seeds = {name: site.reveal(survivors=survivors, dropped=[], signatures=signatures) for name, site in sites.items()}
    total = sum_of(vectors)
    remove_self_masks(total, seeds, session=SESSION)
    return total


@given(
    count=st.integers(3, 10),
    size=st.integers(0, 300),
    bits=st.integers(8, 20),
    weights=st.lists(st.integers(0, 400), min_size=10, max_size=10),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_the_unmasked_sum_is_the_plain_integer_sum(count, size, bits, weights, seed):
    quantiser, random = Quantiser(bits=bits, limit=0.5), np.random.default_rng(seed)
    most = quantiser.levels * 4096
    layout = Layout((Part("delta", size, min(most, 2**31 - 1), signed=True), Part("weight", 1, 4096)))
    sites, plain, expected = cohort(count), {}, np.zeros(size, dtype=object)
    for name, weight in zip(sites, weights, strict=False):
        integers, _ = quantiser.quantise(random.normal(0, 0.3, size), rounding_stream(seed, round=1, site=name))
        plain[name] = layout.pack({"delta": integers * weight, "weight": weight})
        expected = expected + np.array([int(i) * weight for i in integers], dtype=object)
    parts = layout.unpack(unmasked(sites, masked(with_keys(sites), plain)))
    assert parts["delta"].tolist() == expected.tolist()
    assert parts["weight"].tolist() == [sum(weights[:count])]


@given(count=st.integers(3, 6), words=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_any_words_survive_masking(count, words, seed):
    random = np.random.default_rng(seed)
    sites = cohort(count)
    plain = {name: random.integers(0, 2**32, words, dtype=np.uint32) for name in sites}
    expected = sum(v.astype(object) for v in plain.values()) % 2**32
    assert unmasked(sites, masked(with_keys(sites), plain)).tolist() == expected.tolist()


def test_what_a_site_sends_is_uniform_and_never_the_same_twice():
    sent = []
    for _ in range(2):
        sites = with_keys(cohort(3))
        sent.append(masked(sites, {name: np.zeros(1 << 16, dtype=np.uint32) for name in sites}))
    for vectors in sent:
        for vector in vectors.values():
            assert chisquare(np.bincount(vector >> np.uint32(24), minlength=256)).pvalue > 1e-7
    for name in sent[0]:
        assert np.count_nonzero(sent[0][name] == sent[1][name]) < 5


def test_the_sum_stays_hidden_until_every_self_mask_is_revealed():
    sites = with_keys(cohort(3))
    vectors = masked(sites, {name: np.zeros(1 << 16, dtype=np.uint32) for name in sites})
    assert chisquare(np.bincount(sum_of(vectors) >> np.uint32(24), minlength=256)).pvalue > 1e-7


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_sites_are_refused(count):
    with pytest.raises(SiteRefusal, match="at least 3"):
        cohort(count)


def test_swapped_keys_are_refused():
    sites = cohort(3)
    keys = {name: site.advertise() for name, site in sites.items()}
    forged = keys["river"].model_copy(update={"key": MaskKey().public})
    with pytest.raises(ProtocolError, match="not signed by its pinned identity"):
        sites["north"].accept([keys["hill"], keys["north"], forged])


def test_keys_of_another_session_are_refused():
    old = {name: site.advertise() for name, site in cohort(3).items()}
    site = cohort(3, session=SESSION.model_copy(update={"attempt": 2}))["north"]
    with pytest.raises(ProtocolError, match="not signed"):
        site.accept(list(old.values()))


def test_a_site_does_not_accept_another_key_in_its_own_name():
    sites = cohort(3)
    keys = {name: site.advertise() for name, site in sites.items()}
    keys["north"] = sign_mask_key(IDENTITIES["north"], SESSION, name="north", key=MaskKey().public)
    with pytest.raises(ProtocolError, match="another key for north"):
        sites["north"].accept(list(keys.values()))


def test_one_key_for_two_sites_is_refused():
    sites = cohort(3)
    keys = {name: site.advertise() for name, site in sites.items()}
    keys["river"] = sign_mask_key(IDENTITIES["river"], SESSION, name="river", key=keys["hill"].key)
    with pytest.raises(ProtocolError, match="same mask key"):
        sites["north"].accept(list(keys.values()))


@pytest.mark.parametrize("names", [("hill", "north"), ("hill", "hill", "north", "river"), ("hill", "north", "east")])
def test_keys_of_another_cohort_are_refused(names):
    keys = {name: site.advertise() for name, site in cohort(5).items()}
    with pytest.raises(ProtocolError, match="not those of the plan's hospitals"):
        cohort(3)["north"].accept([keys[name] for name in names])


def test_a_vector_is_masked_once():
    sites = with_keys(cohort(3))
    masked(sites, zeros(sites))
    with pytest.raises(ProtocolError, match="used up"):
        sites["north"].mask(np.zeros(4, dtype=np.uint32), request=REQUEST)
    with pytest.raises(ProtocolError, match="keys are missing"):
        cohort(3)["north"].mask(np.zeros(4, dtype=np.uint32), request=REQUEST)


@pytest.mark.parametrize("told", ["plan", "request"])
def test_sites_that_were_told_different_things_do_not_unmask(told):
    sites = with_keys(cohort(3, plans={"river": "another plan"} if told == "plan" else None))
    masked(sites, zeros(sites), requests={"river": "another model"} if told == "request" else None)
    survivors = list(sites)
    signatures = {name: site.sign(survivors) for name, site in sites.items()}
    for site in sites.values():
        with pytest.raises(ProtocolError, match="did not sign the same transcript"):
            site.reveal(survivors=survivors, dropped=[], signatures=signatures)


def test_a_dropped_site_ends_the_attempt():
    sites = with_keys(cohort(4))
    masked(sites, zeros(sites))
    survivors = list(sites)
    with pytest.raises(ProtocolError, match="not the whole cohort"):
        sites["north"].sign(survivors[:3])
    signatures = {name: site.sign(survivors) for name, site in sites.items()}
    for kept in (survivors, survivors[:3]):
        with pytest.raises(ProtocolError, match="start a new attempt with fresh keys"):
            sites["north"].reveal(survivors=kept, dropped=["delta"], signatures=signatures)
    with pytest.raises(ProtocolError, match="not the set that this hospital signed"):
        sites["north"].reveal(survivors=survivors[:3], dropped=[], signatures=signatures)


def test_a_self_mask_is_revealed_once_and_only_with_every_signature():
    sites = with_keys(cohort(3))
    masked(sites, zeros(sites))
    survivors = list(sites)
    with pytest.raises(ProtocolError, match="after the survivors are signed"):
        sites["north"].reveal(survivors=survivors, dropped=[], signatures={})
    signatures = {name: site.sign(survivors) for name, site in sites.items()}
    with pytest.raises(ProtocolError, match="signed once"):
        sites["north"].sign(survivors)
    partial = {name: signatures[name] for name in survivors[:2]}
    with pytest.raises(ProtocolError, match="not the set"):
        sites["north"].reveal(survivors=survivors, dropped=[], signatures=partial)
    forged = {**signatures, "river": signatures["hill"]}
    with pytest.raises(ProtocolError, match="river did not sign"):
        sites["north"].reveal(survivors=survivors, dropped=[], signatures=forged)
    sites["north"].reveal(survivors=survivors, dropped=[], signatures=signatures)
    with pytest.raises(ProtocolError, match="revealed once"):
        sites["north"].reveal(survivors=survivors, dropped=[], signatures=signatures)
