"""Hospitals that fail at any step of one session: the sum is that of those who stay, to the bit."""

import itertools

import numpy as np
import pytest
from federating import FIVE, InProcessChannel, Joined, make_sites

from primia.data.image_set import load_image_set
from primia.errors import SiteRefusal
from primia.federation import messages as m
from primia.federation.aggregate import aggregate
from primia.federation.rollcall import SessionError
from primia.federation.summed_validation import evaluate_layout, evaluate_values
from primia.federation.vectors import bytes_to_floats, bytes_to_words
from primia.federation.work import LocalWork
from primia.privacy.noise import SystemNoise
from primia.secagg.combine import sum_of

STEPS = {
    "advertise": m.AdvertiseKeys,
    "share": m.ShareKeys,
    "deliver": m.DeliverShares,
    "masked_input": m.Evaluate,
    "consistency": m.Consistency,
    "unmask": m.Unmask,
}
IN_THE_SUM = ("consistency", "unmask")  # who falls silent here has sent its vector


@pytest.fixture(scope="module")
def joined(site_folders, params_with, tmp_path_factory):
    params = params_with(preprocess__hospitals=list(FIVE), federation__rounds=1000)
    state = tmp_path_factory.mktemp("state")
    return Joined(params, InProcessChannel(make_sites(site_folders, state, FIVE)), state)


@pytest.fixture(scope="module")
def plain(joined, site_folders):
    """What the hospitals would say in clear, added up."""
    layout, held, works = evaluate_layout(joined.plan), {}, {}
    for name in FIVE:
        held[name] = load_image_set(site_folders / name / "validation.safetensors")
        works[name] = LocalWork(joined.plan, name=name, train=held[name], validation=held[name])

    def total(request, names):
        said = {}
        for name in names:
            logits = works[name].validate(bytes_to_floats(request.model), mean=request.mean, std=request.std)
            said[name] = layout.pack(
                evaluate_values(joined.plan, logits, held[name].labels, held[name].patients, noise=SystemNoise())
            )
        return sum_of(said).tolist()

    return total


ROUNDS = itertools.count(1)


def run_session(joined, spoil, **options):
    """A session about a model that was never asked about before, and its request."""
    channel, round = InProcessChannel(joined.channel.sites, spoil=spoil), next(ROUNDS)
    request, size = joined.evaluate(round=round, shift=round / 1000), evaluate_layout(joined.plan).size
    return request, aggregate(channel, request, plan=joined.plan, sites=FIVE, size=size, deadline_s=60, **options)


def at(step, failure, names=("hill",)):
    """Let `failure` replace the answers of the named hospitals to one step."""

    def spoil(name, request, response):
        return failure(response) if isinstance(request, STEPS[step]) and name in names else response

    return spoil


def another_session(response):
    return response.model_copy(update={"session": response.session.model_copy(update={"attempt": 9})})


FAILURES = {
    "dies": lambda response: "its process was ended by signal 9",
    "hangs": lambda response: "it gave no answer within 1 s",
    "answers_another_question": lambda response: m.Joined(plan="0" * 64),
    "answers_another_session": another_session,
    "refuses": lambda response: m.Refusal(kind="refusal", reason="the owner said no."),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_hospital_that_fails_at_any_step_is_dropped_and_the_sum_is_exact(joined, plain, step, failure):
    request, result = run_session(joined, at(step, FAILURES[failure]))
    survivors = set(FIVE) if step in IN_THE_SUM else set(FIVE) - {"hill"}
    assert set(result.survivors) == survivors
    assert result.total.tolist() == plain(request, survivors)
    assert list(result.dropped) == ["hill"]
    assert (result.dropped["hill"].refusal is not None) == (failure == "refuses")
    assert list(result.phases) == list(STEPS)
    assert all(phase.bytes_up > 0 and phase.seconds > 0 for phase in result.phases.values())


def changed(response, **changes):
    return response.model_copy(update=changes)


def flipped(content):
    return bytes([content[0] ^ 1]) + content[1:]


LIES = {
    "keys_signed_by_nobody": (
        "advertise",
        lambda r: changed(r, keys=changed(r.keys, mask=bytes(range(32)))),
        "not signed by its pinned identity",
    ),
    "keys_in_another_name": (
        "advertise",
        lambda r: changed(r, keys=changed(r.keys, name="lake")),
        "not signed by its pinned identity",
    ),
    "shares_kept_back": (
        "share",
        lambda r: changed(r, sealed=changed(r.sealed, shares=dict(list(r.sealed.shares.items())[1:]))),
        "shared its secrets with other hospitals",
    ),
    "a_vector_cut_short": ("masked_input", lambda r: changed(r, vector=r.vector[:-4]), "wrong length"),
    "false_shares": (
        "unmask",
        lambda r: changed(r, shares={owner: flipped(share) for owner, share in r.shares.items()}),
        "does not match the commitment",
    ),
}


def test_a_hospital_that_signed_something_else_spoils_the_session_before_anything_is_unmasked(joined):
    asked = []

    def spoil(name, request, response):
        asked.append(type(request))
        return (
            changed(response, signature=flipped(response.signature))
            if isinstance(response, m.Signed) and (name == "hill")
            else response
        )

    with pytest.raises(
        SessionError, match=r"may not belong together \(hospital hill: it signed another transcript"
    ) as e:
        run_session(joined, spoil)
    assert e.value.spoilers == {"hill"}
    assert m.Unmask not in asked


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_that_shows_drops_the_liar(joined, plain, lie):
    step, told, reason = LIES[lie]
    request, result = run_session(joined, at(step, told))
    survivors = set(FIVE) if step in IN_THE_SUM else set(FIVE) - {"hill"}
    assert result.total.tolist() == plain(request, survivors)
    assert list(result.dropped) == ["hill"]
    assert reason in result.dropped["hill"].reason


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_nothing_is_unmasked_and_the_reasons_are_told(joined, step):
    with pytest.raises(SessionError, match=r"3 of 5 hospitals are left .* the plan needs 4") as caught:
        run_session(joined, at(step, FAILURES["dies"], names=("hill", "west")))
    assert set(caught.value.dropped) == {"hill", "west"}
    assert "hospital west: its process was ended by signal 9" in str(caught.value)
    assert list(caught.value.phases)[-1] == step


def test_shares_of_no_secret_name_their_owner(joined):
    def spoil(name, request, response):
        if name == "hill" and isinstance(request, m.Evaluate):
            return "it died"  # its mask key must be recovered now
        if name != "hill" and isinstance(request, m.Unmask):
            return changed(response, shares={o: s if o != "hill" else flipped(s) for o, s in response.shares.items()})
        return response

    with pytest.raises(SessionError, match="The masks of hill cannot be removed"):
        run_session(joined, spoil)


def test_a_needed_hospital_cannot_be_left_out(joined):
    with pytest.raises(SessionError, match="hill must take part"):
        run_session(joined, at("share", FAILURES["dies"]), needed=FIVE)


def test_a_refusal_keeps_its_kind(joined):
    with pytest.raises(SessionError) as caught:
        run_session(joined, at("advertise", FAILURES["refuses"], names=("hill", "west")))
    assert isinstance(caught.value.dropped["west"].refusal, SiteRefusal)
    assert str(caught.value.dropped["west"].refusal).startswith("Hospital west refuses AdvertiseKeys (evaluate of")


def test_a_vector_of_a_session_says_nothing_alone(joined):
    seen = []

    def spoil(name, request, response):
        if isinstance(request, m.Evaluate):
            seen.append(bytes_to_words(response.vector))
        return response

    run_session(joined, spoil)
    assert all(np.count_nonzero(vector >> np.uint32(16)) > 0 for vector in seen)  # counts of 18 images stay below
