import numpy as np
import pytest
from scipy.stats import chisquare
from secagg_sessions import IDENTITIES, NAMES, PLAN, REQUEST, SESSION, Cohort

from primia.errors import ProtocolError, SiteRefusal
from primia.secagg.combine import sum_of
from primia.secagg.keys import SessionKey, sign_keys
from primia.secagg.sharing import SEALED_BYTES

A, B, C, D, E = NAMES[:5]
OTHER_REQUEST = "00" * 32


def zeros(words=4):
    return np.zeros(words, dtype=np.uint32)


# What a site sends says nothing.


def test_what_a_site_sends_is_uniform_and_never_the_same_twice():
    first, second = (Cohort(3).masked(1 << 16).vectors for _ in range(2))
    for vectors in (first, second):
        for vector in vectors.values():
            for shift in (0, 8, 16, 24):
                counts = np.bincount((vector >> np.uint32(shift)) & np.uint32(255), minlength=256)
                assert chisquare(counts).pvalue > 1e-7
    for name in first:
        assert np.count_nonzero(first[name] == second[name]) < 5


def test_the_sum_stays_hidden_until_the_self_masks_are_removed():
    total = sum_of(Cohort(3).masked(1 << 16).vectors)
    assert chisquare(np.bincount(total >> np.uint32(24), minlength=256)).pvalue > 1e-7


# Floors of the site.


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_sites_are_refused(count):
    with pytest.raises(SiteRefusal, match="at least 3"):
        Cohort(count)


@pytest.mark.parametrize(("count", "required"), [(3, 1), (3, 2), (5, 3), (10, 6), (3, 4)])
def test_a_threshold_below_two_thirds_is_refused(count, required):
    with pytest.raises(SiteRefusal, match="threshold"):
        Cohort(count, required=required)


def test_a_stricter_threshold_of_the_plan_holds_at_every_round():
    cohort = Cohort(5, required=5).advertise()
    with pytest.raises(SiteRefusal, match="fewer than the threshold of 5"):
        cohort.sites[A].share([cohort.keys[name] for name in (A, B, C, D)])
    cohort.share().receive()
    vector = zeros()
    cohort.sites[A].mask(vector, request=REQUEST)
    with pytest.raises(SiteRefusal, match="fewer than the threshold of 5"):
        cohort.sites[A].sign([A, B, C, D])


# Order and replay.


def test_nothing_is_answered_before_its_turn():
    cohort = Cohort(4)
    site = cohort.sites[A]
    with pytest.raises(ProtocolError, match="out of order"):
        site.share([])
    cohort.advertise()
    for call in (
        lambda: site.receive({}, cohort=[A, B, C, D]),
        site.ready,
        lambda: site.mask(zeros(), request=REQUEST),
        lambda: site.sign([A, B, C, D]),
        lambda: site.reveal(survivors=[A, B, C, D], dropped=[], signatures={}),
    ):
        with pytest.raises(ProtocolError, match="out of order"):
            call()


def test_nothing_is_answered_twice():
    cohort = Cohort(4).masked().sign()
    site, everybody = cohort.sites[A], list(cohort.names)
    arguments = {"survivors": everybody, "dropped": [], "signatures": cohort.signatures}
    site.reveal(**arguments)
    for call in (
        site.advertise,
        lambda: site.share(list(cohort.keys.values())),
        lambda: site.receive(cohort.addressed_to(A), cohort=everybody),
        site.ready,
        lambda: site.mask(zeros(), request=REQUEST),
        lambda: site.sign(everybody),
        lambda: site.reveal(**arguments),
    ):
        with pytest.raises(ProtocolError, match="second time"):
            call()


def test_a_refused_vector_is_left_as_it_was():
    cohort = Cohort(3).masked()
    vector = zeros()
    with pytest.raises(ProtocolError, match="second time"):
        cohort.sites[A].mask(vector, request=REQUEST)
    assert vector.tolist() == [0, 0, 0, 0]


def test_no_secret_is_left_after_its_use():
    cohort = Cohort(4).masked().sign().reveal()
    for site in cohort.sites.values():
        kept = vars(site)
        assert kept["_seed"] is kept["_mask"] is kept["_channel"] is None
        assert kept["_held"] == {}


# Round 1: keys.


def test_swapped_keys_are_refused():
    cohort = Cohort(3).advertise()
    for place in ("channel", "mask"):
        forged = cohort.keys[C].model_copy(update={place: SessionKey().public})
        with pytest.raises(ProtocolError, match=f"keys of {C} .* not signed by its pinned identity"):
            cohort.sites[A].share([cohort.keys[A], cohort.keys[B], forged])


def test_keys_of_another_session_are_refused():
    old = Cohort(3).advertise()
    new = Cohort(3, session=SESSION.model_copy(update={"attempt": 2})).advertise()
    with pytest.raises(ProtocolError, match="not signed"):
        new.sites[A].share([new.keys[A], old.keys[B], new.keys[C]])


def test_a_site_does_not_accept_other_keys_in_its_own_name():
    cohort = Cohort(4).advertise()
    mine = sign_keys(IDENTITIES[A], SESSION, name=A, channel=SessionKey().public, mask=SessionKey().public)
    for keys in ([mine, cohort.keys[B], cohort.keys[C]], [cohort.keys[B], cohort.keys[C], cohort.keys[D]]):
        with pytest.raises(ProtocolError, match=f"no or another key for {A}"):
            cohort.sites[A].share(keys)


def test_one_key_in_two_places_is_refused():
    cohort = Cohort(3).advertise()
    fresh = SessionKey().public
    for channel, mask in [
        (cohort.keys[B].channel, fresh),
        (fresh, cohort.keys[B].mask),
        (fresh, cohort.keys[B].channel),
        (fresh, fresh),
    ]:
        copied = sign_keys(IDENTITIES[C], SESSION, name=C, channel=channel, mask=mask)
        with pytest.raises(ProtocolError, match="same key"):
            cohort.sites[A].share([cohort.keys[A], cohort.keys[B], copied])


def test_a_name_twice_or_from_outside_the_plan_is_refused():
    cohort, stranger = Cohort(4).advertise(), Cohort(5).advertise()
    for keys in (
        [cohort.keys[A], cohort.keys[B], cohort.keys[B], cohort.keys[C]],
        [*cohort.keys.values(), stranger.keys[E]],
    ):
        with pytest.raises(ProtocolError, match="different hospitals of the plan"):
            cohort.sites[A].share(keys)


def test_too_few_keys_are_refused():
    cohort = Cohort(5).advertise()
    with pytest.raises(SiteRefusal, match=r"3 hospitals with keys .* fewer than the threshold of 4"):
        cohort.sites[A].share([cohort.keys[name] for name in (A, B, C)])


# Round 2: shares and the cohort.


@pytest.mark.parametrize("names", [(B, C, D), (A, B, C, E), (A, A, B, C), (A, B, C, "nobody")])
def test_a_cohort_that_is_not_a_part_of_the_keys_with_this_site_is_refused(names):
    cohort = Cohort(5).advertise([E]).share()
    with pytest.raises(ProtocolError, match="different hospitals of the step before"):
        cohort.sites[A].receive({}, cohort=names)


def test_a_cohort_below_the_threshold_is_refused():
    cohort = Cohort(5).advertise().share()
    with pytest.raises(SiteRefusal, match="fewer than the threshold of 4"):
        cohort.sites[A].receive(cohort.addressed_to(A, [A, B, C]), cohort=[A, B, C])


def test_missing_and_needless_shares_are_named():
    cohort = Cohort(5).advertise().share()
    shares = cohort.addressed_to(A)
    missing = {name: share for name, share in shares.items() if name != C}
    with pytest.raises(ProtocolError, match=C):
        cohort.sites[A].receive(missing, cohort=cohort.names)
    with pytest.raises(ProtocolError, match=E):
        cohort.sites[A].receive(shares, cohort=[A, B, C, D])
    with pytest.raises(ProtocolError, match=A):
        cohort.sites[A].receive({**shares, A: shares[B]}, cohort=cohort.names)


@pytest.mark.parametrize(
    "damage",
    [
        lambda share: share[:-1],
        lambda share: share + b"\0",
        lambda share: b"",
        lambda share: bytes(1 << 20),
        lambda share: bytes(SEALED_BYTES),
        lambda share: share[:40] + bytes([share[40] ^ 1]) + share[41:],
    ],
)
def test_a_share_that_was_changed_on_the_way_ends_in_one_error_that_names_its_sender(damage):
    cohort = Cohort(3).advertise().share()
    shares = cohort.addressed_to(A)
    with pytest.raises(ProtocolError, match=f"{B} sealed for {A} do not open"):
        cohort.sites[A].receive({**shares, B: damage(shares[B])}, cohort=cohort.names)


def test_shares_for_another_site_or_from_another_sender_or_session_do_not_open():
    cohort = Cohort(3).advertise().share()
    again = Cohort(3, session=SESSION.model_copy(update={"attempt": 2})).advertise().share()
    shares = cohort.addressed_to(A)
    for wrong in (
        {B: shares[C], C: shares[B]},
        {**shares, B: cohort.sealed[B].shares[C]},
        {**shares, B: again.sealed[B].shares[A]},
    ):
        with pytest.raises(ProtocolError, match="do not open"):
            cohort.sites[A].receive(wrong, cohort=cohort.names)


def test_sites_that_were_told_different_keys_cannot_open_each_others_shares():
    cohort = Cohort(4).advertise()
    everybody, fewer = list(cohort.keys.values()), [cohort.keys[name] for name in (A, B, C)]
    cohort.sealed = {name: cohort.sites[name].share(everybody if name == A else fewer) for name in (A, B, C)}
    with pytest.raises(ProtocolError, match=f"{A} sealed for {B} do not open"):
        cohort.sites[B].receive({name: cohort.sealed[name].shares[B] for name in (A, C)}, cohort=[A, B, C])


# Rounds 3 and 4: a lying coordinator.


def lied_to(*, requests=None, cohorts=None, survivors=None):
    """Four sites (threshold 3), each told the truth unless the lie names it; the transcripts they sign."""
    cohort = Cohort(4).advertise().share()
    everybody = list(cohort.names)
    cohort.signatures = {}
    for name, site in cohort.sites.items():
        told = (cohorts or {}).get(name, everybody)
        site.receive(cohort.addressed_to(name, told), cohort=told)
    for name, site in cohort.sites.items():
        site.mask(zeros(), request=(requests or {}).get(name, REQUEST))
    for name, told in (survivors or dict.fromkeys(everybody, everybody)).items():
        cohort.signatures[name] = cohort.sites[name].sign(told)
    return cohort


def test_sites_that_got_different_requests_do_not_unmask():
    cohort = lied_to(requests={C: OTHER_REQUEST})
    for name in cohort.names:
        with pytest.raises(ProtocolError, match="told another plan, model or cohort"):
            cohort.sites[name].reveal(survivors=cohort.names, dropped=[], signatures=cohort.signatures)


def test_a_site_with_another_model_stays_hidden_although_the_others_unmask_without_its_signature():
    # Model inconsistency (Pasquini et al. 2022): the others get a model whose update is zero, so that the sum is C's.
    cohort = Cohort(4).advertise().share().receive()
    cohort.vectors = {name: zeros(1 << 16) for name in cohort.names}
    for name, vector in cohort.vectors.items():
        cohort.sites[name].mask(vector, request=OTHER_REQUEST if name == C else REQUEST)
    cohort.sign(without=[C]).reveal()
    total, _ = cohort.unmask()
    for shift in (0, 8, 16, 24):
        counts = np.bincount((total >> np.uint32(shift)) & np.uint32(255), minlength=256)
        assert chisquare(counts).pvalue > 1e-7


def test_two_signatures_of_each_request_are_too_few_for_either():
    cohort = lied_to(requests={C: OTHER_REQUEST, D: OTHER_REQUEST})
    for name, agreeing in ((A, (A, B)), (C, (C, D))):
        some = {signer: cohort.signatures[signer] for signer in agreeing}
        with pytest.raises(SiteRefusal, match="fewer than the threshold of 3"):
            cohort.sites[name].reveal(survivors=cohort.names, dropped=[], signatures=some)


def test_sites_that_were_told_different_cohorts_do_not_unmask():
    three = [A, B, C]
    cohort = lied_to(cohorts={A: three}, survivors=dict.fromkeys(three, three))
    for name, dropped in ((A, []), (B, [D])):
        with pytest.raises(ProtocolError, match="told another plan, model or cohort"):
            cohort.sites[name].reveal(survivors=three, dropped=dropped, signatures=cohort.signatures)


def test_sites_of_different_plans_do_not_unmask():
    cohorts = {plan: Cohort(3, plan=plan).advertise() for plan in (PLAN, "ff" * 32)}
    mixed = cohorts[PLAN]
    mixed.sites[C], mixed.keys[C] = cohorts["ff" * 32].sites[C], cohorts["ff" * 32].keys[C]
    mixed.share().receive().mask(dict.fromkeys(mixed.names, zeros())).sign()
    with pytest.raises(ProtocolError, match=f"{C} did not sign"):
        mixed.sites[A].reveal(survivors=mixed.names, dropped=[], signatures=mixed.signatures)


def test_split_sets_of_survivors_open_nothing():
    # A and B are told that D survived, C and D that it is A who dropped out: neither set has three signatures.
    full, without_a = [A, B, C, D], [B, C, D]
    cohort = lied_to(survivors={A: full, B: full, C: without_a, D: without_a})
    for name, survivors, dropped in ((A, full, []), (C, without_a, [A])):
        with pytest.raises(ProtocolError):
            cohort.sites[name].reveal(survivors=survivors, dropped=dropped, signatures=cohort.signatures)
        agreeing = {
            signer: cohort.signatures[signer] for signer in ((A, B) if name == A else (C, D)) if signer in survivors
        }
        with pytest.raises(SiteRefusal, match=r"2 signatures .* fewer than the threshold of 3"):
            cohort.sites[name].reveal(survivors=survivors, dropped=dropped, signatures=agreeing)


def test_one_set_of_survivors_is_signed_once():
    cohort = Cohort(4).masked().sign()
    with pytest.raises(ProtocolError, match="second time"):
        cohort.sites[A].sign([A, B, C])


@pytest.mark.parametrize("names", [(B, C, D), (A, B, C, E), (A, B, B, C), (A, B, C, "nobody")])
def test_survivors_are_sites_of_the_cohort_with_the_signing_one_among_them(names):
    cohort = Cohort(5).advertise().share([E])
    cohort.receive().mask(dict.fromkeys(cohort.names, zeros()))
    with pytest.raises(ProtocolError, match="different hospitals of the step before"):
        cohort.sites[A].sign(names)


def test_too_few_survivors_are_not_signed():
    cohort = Cohort(5).masked()
    with pytest.raises(SiteRefusal, match=r"3 survivors .* fewer than the threshold of 4"):
        cohort.sites[A].sign([A, B, C])


@pytest.mark.parametrize(
    ("survivors", "dropped", "reason"),
    [
        ([A, B, C, D], [D], "cannot both have survived and dropped out"),
        ([A, B, C], [C, D], "cannot both have survived and dropped out"),
        ([A, B, C, D], [], "not the set that this hospital signed"),
        ([A, B], [C, D], "not the set that this hospital signed"),
        ([A, B, D], [C], "not the set that this hospital signed"),
        ([A, B, C], [], "not the rest of its cohort"),
        ([A, B, C], [D, E], "not the rest of its cohort"),
        ([A, B, C], [E], "not the rest of its cohort"),
    ],
)
def test_lists_other_than_the_signed_ones_open_nothing(survivors, dropped, reason):
    cohort = Cohort(4).advertise().share().receive().mask(dict.fromkeys(NAMES[:4], zeros()), without=[D]).sign()
    with pytest.raises(ProtocolError, match=reason):
        cohort.sites[A].reveal(survivors=survivors, dropped=dropped, signatures=cohort.signatures)
    revealed = cohort.sites[A].reveal(survivors=[A, B, C], dropped=[D], signatures=cohort.signatures)
    assert set(revealed) == {A, B, C, D}


def test_missing_forged_and_foreign_signatures_open_nothing():
    cohort = Cohort(4).masked().sign()
    everybody, signatures = list(cohort.names), cohort.signatures
    old = Cohort(4, session=SESSION.model_copy(update={"attempt": 2})).masked().sign().signatures
    for wrong, reason in [
        ({}, "0 signatures"),
        ({name: signatures[name] for name in (A, B)}, "2 signatures"),
        ({**signatures, C: signatures[B]}, f"{C} did not sign"),
        ({**signatures, C: bytes(64)}, f"{C} did not sign"),
        ({**signatures, C: old[C]}, f"{C} did not sign"),
        ({**signatures, E: signatures[A]}, "without being one of them"),
    ]:
        with pytest.raises((ProtocolError, SiteRefusal), match=reason):
            cohort.sites[A].reveal(survivors=everybody, dropped=[], signatures=wrong)


def test_a_dropped_site_cannot_sign_itself_back_in():
    cohort = Cohort(4).masked()
    three = [A, B, C]
    signatures = {name: cohort.sites[name].sign(three) for name in three}
    signatures[D] = cohort.sites[D].sign([A, B, C, D])
    with pytest.raises(ProtocolError, match="without being one of them"):
        cohort.sites[A].reveal(survivors=three, dropped=[D], signatures=signatures)


def test_two_thirds_of_the_signatures_are_enough():
    cohort = Cohort(4).masked().sign()
    del cohort.signatures[D]
    assert set(cohort.sites[A].reveal(survivors=cohort.names, dropped=[], signatures=cohort.signatures)) == {A, B, C, D}
