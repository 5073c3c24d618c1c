"""What a coordinator that lies gets from honest hospitals, in this process and from real site processes."""

import itertools
import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from federating import FIVE, InProcessChannel, Joined, make_sites

from primia.federation import messages as m
from primia.federation.codec import content_digest
from primia.federation.local_channel import LocalChannel
from primia.secagg.combine import RecoveryError, sum_of, unmask
from primia.secagg.keys import Identity, SessionKey, sign_keys

ROUNDS = itertools.count(1)


@pytest.fixture(scope="module", params=["here", pytest.param("processes", marks=pytest.mark.system)])
def hospitals(request, site_folders, params_with, tmp_path_factory):
    state = tmp_path_factory.mktemp("state")
    params = params_with(preprocess__hospitals=list(FIVE), federation__rounds=1000)
    if request.param == "here":
        yield Joined(params, InProcessChannel(make_sites(site_folders, state, FIVE)), state)
    else:
        folders, states = ({name: parent / name for name in FIVE} for parent in (site_folders, state / "sites"))
        with LocalChannel(folders, states=states, ledgers=state / "ledgers") as channel:
            assert len({*channel.process_ids().values(), os.getpid()}) == 6
            yield Joined(params, channel, state)


@pytest.fixture
def talk(hospitals):
    """A session about a model that nobody was asked about before."""
    round = next(ROUNDS)
    return hospitals.conversation(hospitals.evaluate(round=round, shift=round / 1000))


def all_refuse(answers, reason):
    assert answers
    for name, answer in answers.items():
        assert isinstance(answer, m.Refusal), name
        assert reason in answer.reason, (name, answer.reason)
    return True


def test_the_honest_session_opens(talk):
    assert all(isinstance(answer, m.Revealed) for answer in talk.through(talk.unmask).values())


def test_nobody_is_unmasked_as_survivor_and_as_dropped(talk):
    talk.through(talk.sign)
    assert all_refuse(talk.unmask(dropped=("hill",)), "cannot both have survived and dropped")


def test_the_survivors_are_those_that_were_signed(talk):
    talk.through(talk.sign)
    left = tuple(name for name in FIVE if name != "hill")
    signatures = {name: talk.signatures[name] for name in left}
    assert all_refuse(
        talk.unmask(survivors=left, dropped=("hill",), signatures=signatures), "not the set that this hospital signed"
    )


def test_two_sets_of_survivors_never_get_enough_signatures(talk):
    talk.through(talk.answer)
    first, second = FIVE[:4], FIVE[1:]
    questions = {
        name: m.Consistency(session=talk.session, survivors=first if name in FIVE[:2] else second) for name in FIVE
    }
    signed = {name: answer.signature for name, answer in talk.tell(questions).items()}
    for survivors, signers, dropped in ((first, FIVE[:2], FIVE[4:]), (second, FIVE[2:], FIVE[:1])):
        for claimed in (signers, survivors):
            question = m.Unmask(
                session=talk.session,
                survivors=survivors,
                dropped=dropped,
                signatures={name: signed[name] for name in claimed},
            )
            reason = "fewer than the threshold" if claimed == signers else "did not sign the same transcript"
            assert all_refuse(talk.tell(dict.fromkeys(signers, question)), reason)


def test_too_few_survivors_are_not_signed(talk):
    talk.through(talk.answer)
    assert all_refuse(talk.sign(FIVE[:3]), "fewer than the threshold")


def test_a_session_is_not_replayed(talk):
    talk.through(talk.unmask)
    assert all_refuse(talk.tell(m.AdvertiseKeys(session=talk.session)), "answered before")
    assert all_refuse(talk.tell(talk.request), "no open session")
    assert all_refuse(talk.tell(m.Consistency(session=talk.session, survivors=FIVE)), "no open session")


def test_earlier_rounds_are_not_asked_again(talk, hospitals):
    talk.through(talk.unmask)
    behind = hospitals.session("train", round=talk.session.round, attempt=9)  # training comes before validation
    assert all_refuse(talk.tell(m.AdvertiseKeys(session=behind)), "never rolled back")


@pytest.mark.parametrize("threshold", [1, 3])
def test_a_plan_with_a_low_threshold_is_refused(hospitals, threshold):
    plan = hospitals.plan.model_copy(update={"threshold": threshold})
    answers = hospitals.channel.ask(dict.fromkeys(FIVE, m.Join(plan=plan.canonical())), deadline_s=60).received
    assert all_refuse(answers, f"The plan's threshold is {threshold}, but this hospital demands that 4 of 5")


def test_a_plan_in_clear_is_refused(hospitals):
    clear = hospitals.plan.secure_aggregation.model_copy(update={"scheme": "none"})
    plan = hospitals.plan.model_copy(update={"secure_aggregation": clear})
    answers = hospitals.channel.ask(dict.fromkeys(FIVE, m.Join(plan=plan.canonical())), deadline_s=60).received
    assert all_refuse(answers, "no secure aggregation")


def swapped(keys, session):
    """Keys in hill's name whose secrets the coordinator knows."""
    mine = sign_keys(
        Identity(Ed25519PrivateKey.generate()),
        session,
        name="hill",
        channel=SessionKey().public,
        mask=SessionKey().public,
    )
    return [mine if advert.name == "hill" else advert for advert in keys]


def test_swapped_keys_are_refused(talk):
    talk.advertise()
    answers = talk.share(keys=swapped(talk.keys.values(), talk.session))
    assert all_refuse(answers, "not signed by its pinned identity")


def test_keys_of_another_session_are_refused(talk, hospitals):
    talk.advertise()
    earlier = talk.keys
    again = hospitals.conversation(
        talk.request.model_copy(update={"session": talk.session.model_copy(update={"attempt": 2})})
    )
    again.advertise()
    mixed = [earlier["hill"] if name == "hill" else keys for name, keys in again.keys.items()]
    assert all_refuse(again.share(keys=mixed), "not signed by its pinned identity")


def test_hospitals_invented_by_the_coordinator_do_not_count(talk):
    talk.advertise()
    invented = [
        sign_keys(
            Identity(Ed25519PrivateKey.generate()),
            talk.session,
            name=name,
            channel=SessionKey().public,
            mask=SessionKey().public,
        )
        for name in ("ghost", "shade", "spook")
    ]
    alone = {
        name: m.ShareKeys(session=talk.session, model=talk.request.model_digest, keys=(talk.keys[name], *invented))
        for name in FIVE
    }
    assert all_refuse(talk.tell(alone), "not those of different hospitals of the plan")


def test_one_model_is_announced_and_no_other_is_answered(talk, hospitals):
    talk.through(talk.deliver)
    other = hospitals.evaluate(round=talk.session.round, shift=0.5)
    assert all_refuse(talk.answer(dict.fromkeys(FIVE, other)), "announced for another model")


def another_model_for_hill(talk, hospitals):
    """Everybody but hill is asked about one model, from the announcement on; hill about another."""
    other = hospitals.evaluate(round=talk.session.round, shift=0.5)
    talk.advertise()
    keys = tuple(talk.keys.values())
    announced = {
        name: m.ShareKeys(
            session=talk.session, model=(other if name == "hill" else talk.request).model_digest, keys=keys
        )
        for name in FIVE
    }
    talk.sealed = {name: answer.sealed for name, answer in talk.tell(announced).items()}
    talk.deliver()
    talk.answer({name: other if name == "hill" else talk.request for name in FIVE})
    talk.sign()
    return talk


def test_hospitals_that_were_asked_about_different_models_do_not_unmask(talk, hospitals):
    answers = another_model_for_hill(talk, hospitals).unmask()
    assert all_refuse(answers, "did not sign the same transcript")


def test_leaving_the_signature_of_the_deceived_hospital_out_opens_nothing(talk, hospitals):
    """Four of five signed the same: they may reveal, but the masks of hill's other model do not cancel with theirs."""
    another_model_for_hill(talk, hospitals)
    del talk.signatures["hill"]
    talk.unmask()
    assert len(talk.revealed) == 4
    total = sum_of(talk.vectors)
    unmask(
        total,
        session=talk.session,
        keys=talk.keys,
        commitments={name: sealed.commitments for name, sealed in talk.sealed.items()},
        cohort=talk.cohort,
        survivors=talk.survivors,
        revealed=talk.revealed,
        threshold=hospitals.plan.threshold,
        request=content_digest(talk.request),
    )
    assert np.median(total) > 2**24  # validation counts of 90 images would be below 100


def test_shares_of_survivors_do_not_recover_them_as_dropped(talk, hospitals):
    talk.through(talk.unmask)
    with pytest.raises(RecoveryError, match="The masks of hill cannot be removed"):
        unmask(
            sum_of(talk.vectors),
            session=talk.session,
            keys=talk.keys,
            commitments={name: sealed.commitments for name, sealed in talk.sealed.items()},
            cohort=talk.cohort,
            survivors=tuple(name for name in FIVE if name != "hill"),
            revealed=talk.revealed,
            threshold=hospitals.plan.threshold,
            request=content_digest(talk.request),
        )


def again(hospitals, talk, names=FIVE):
    """The same model in a later round."""
    session = talk.session.model_copy(update={"round": next(ROUNDS)})
    return hospitals.conversation(talk.request.model_copy(update={"session": session}), names)


def test_a_second_sum_of_the_same_model_without_one_hospital_is_refused_by_every_site(talk, hospitals):
    talk.through(talk.unmask)
    others = again(hospitals, talk, tuple(name for name in FIVE if name != "hill"))
    others.advertise()
    answers = others.share()
    assert all_refuse(answers, "was unmasked for hill, lake, north, river, west")
    assert {answer.cohort for answer in answers.values()} == {tuple(sorted(FIVE))}


def test_leaving_a_hospital_out_after_it_answered_is_refused_by_every_site(talk, hospitals):
    talk.through(talk.unmask)
    later = again(hospitals, talk)
    later.through(later.answer)
    answers = later.sign(tuple(name for name in FIVE if name != "hill"))
    assert all_refuse(answers, "was unmasked for hill, lake, north, river, west")


def test_the_same_company_may_ask_again(talk, hospitals):
    talk.through(talk.unmask)
    later = again(hospitals, talk)
    assert all(isinstance(answer, m.Revealed) for answer in later.through(later.unmask).values())


def test_the_statistics_are_not_asked_again_after_the_first_round(talk, hospitals):
    talk.through(talk.unmask)
    assert all_refuse(talk.tell(m.AdvertiseKeys(session=hospitals.session("statistics"))), "never rolled back")
