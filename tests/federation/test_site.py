import math
import stat

import pytest
import torch
from federating import CLEAR, NAMES, InProcessChannel, Joined, make_sites, restarted

from primia.attacks.imprint import ImprintedNetwork
from primia.errors import DataError, ProtocolError, SiteRefusal
from primia.federation import messages as m
from primia.federation.aggregate import aggregate
from primia.federation.refusals import BudgetError
from primia.federation.site import Site
from primia.federation.summed_statistics import statistics_layout
from primia.federation.vectors import words_to_bytes
from primia.federation.weights import head_vector, vector_digest
from primia.privacy.accounting import Release, epsilon_of
from primia.secagg.session import Session


@pytest.fixture
def joined(site_folders, params_with, tmp_path):
    return Joined(params_with(), InProcessChannel(make_sites(site_folders, tmp_path)), tmp_path)


@pytest.fixture
def private(site_folders, params_with, tmp_path):
    params = params_with(privacy__enabled=True, federation__rounds=2)
    return Joined(params, InProcessChannel(make_sites(site_folders, tmp_path)), tmp_path)


def restart(joined, name):
    joined.channel.sites[name] = restarted(joined.channel.sites[name])
    joined.channel.sites[name].answer(m.Join(plan=joined.plan.canonical()))


def total_of(joined, request, size=3):
    return aggregate(joined.channel, request, plan=joined.plan, sites=NAMES, size=size, deadline_s=60).total


def test_the_state_of_a_site_is_closed_to_others(joined):
    total_of(joined, joined.statistics())
    for name in NAMES:
        state = joined.state / "sites" / name
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert {p.name for p in state.iterdir()} >= {"identity.pem", "roster.json", "sums.jsonl", "answered"}
        for path in (p for p in state.rglob("*") if p.is_file()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_missing_or_empty_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train.safetensors is missing"):
        Site(name="north", folder=tmp_path / "nowhere", state=tmp_path / "state", ledgers=tmp_path)


def test_the_sum_of_statistics_is_that_of_all_sites(joined):
    layout = statistics_layout(joined.plan)
    assert layout.unpack(total_of(joined, joined.statistics()))["images"].tolist() == [40 + 48 + 56]


def test_a_session_is_answered_once_even_after_a_restart(joined):
    first = total_of(joined, joined.statistics())
    for again in (False, True):
        if again:
            restart(joined, "north")
        with pytest.raises(ProtocolError, match="answered before"):
            joined.channel.sites["north"].answer(m.AdvertiseKeys(session=joined.session("statistics")))
    # the same question with fresh keys gives the same sum and is allowed
    assert total_of(joined, joined.statistics(2)).tolist() == first.tolist()


def test_no_step_of_a_session_is_done_twice(joined):
    talk = joined.conversation(joined.statistics())
    steps = (talk.advertise, talk.share, talk.deliver, talk.answer, talk.sign, talk.unmask)
    for step in steps:
        assert not any(isinstance(answer, m.Refusal) for answer in step().values())
        kept = dict(vars(talk))
        assert all(isinstance(answer, m.Refusal) for answer in step().values()), step.__name__
        vars(talk).update(kept)


def test_another_model_after_the_sum_was_unmasked_is_refused(joined):
    talk = joined.conversation(joined.train())
    talk.through(talk.unmask)
    talk = joined.conversation(joined.train(attempt=2, value=0.0))
    answers = talk.through(talk.answer)
    assert all("was unmasked" in answer.reason for answer in answers.values())


def test_requests_outside_the_plan_are_refused(joined):
    north = joined.channel.sites["north"]
    for session in (
        joined.session("train", round=4),
        joined.session("train").model_copy(update={"run": "another-run"}),
        joined.session("train").model_copy(update={"round": 0}),
        joined.session("statistics").model_copy(update={"round": 1}),
    ):
        with pytest.raises(ProtocolError, match="not part of the plan"):
            north.answer(m.AdvertiseKeys(session=session))
    with pytest.raises(ProtocolError, match="no open session"):
        north.answer(joined.train())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"plan": "0" * 64}, "another plan"),
        ({"model": bytes(8)}, "does not match its digest"),
        ({"class_weights": (1.0, 1.0, 1.0)}, "weighs the classes otherwise"),
        ({"mean": 1.5}, "outside the range"),
        ({"std": 1e-5}, "outside the range"),
        ({"model_digest": "0" * 64}, "announced for another model"),
    ],
)
def test_a_training_that_does_not_fit_is_refused(joined, change, reason):
    talk = joined.conversation(joined.train())
    talk.through(talk.deliver)
    answers = talk.answer(joined.train().model_copy(update=change))
    assert reason in answers["north"].reason


def test_a_network_that_the_server_altered_to_read_images_is_refused_even_with_its_own_digest(joined):
    edges = torch.linspace(-1, 1, 8)
    imprinted = head_vector(ImprintedNetwork(torch.ones(256), edges, classes=3))
    talk = joined.conversation(joined.train())
    change = {"model": imprinted.tobytes(), "model_digest": vector_digest(imprinted)}
    talk.request = joined.train().model_copy(update=change)
    answers = talk.through(talk.answer)
    assert all("does not match its digest or the plan's architecture" in said.reason for said in answers.values())


@pytest.mark.parametrize("change", [{"total_weight": 30}, {"counted": ("river", "hill"), "spare": 1}])
def test_a_cap_below_the_number_of_images_is_kept_without_a_word_about_them(joined, change):
    talk = joined.conversation(joined.train().model_copy(update=change))
    answers = talk.through(talk.answer)
    assert isinstance(answers["north"], m.MaskedInput)  # 40 images


@pytest.mark.parametrize("weight", [math.nan, math.inf, -1e30])
def test_a_model_on_which_some_images_could_overflow_is_refused(joined, weight):
    model = joined.model()
    model[7] = weight
    crafted = joined.train().model_copy(update={"model": words_to_bytes(model), "model_digest": vector_digest(model)})
    talk = joined.conversation(crafted)
    assert "outside the range" in talk.through(talk.answer)["north"].reason


def test_hospitals_that_the_owner_does_not_know_are_refused(joined):
    north = joined.channel.sites["north"]
    real = joined.plan.hospitals["north"]
    ghosts = {name: real.model_copy(update={"identity": digit * 64}) for name, digit in (("g1", "1"), ("g2", "2"))}
    plan = joined.plan.model_copy(update={"run": "another-run", "hospitals": {"north": real, **ghosts}})
    with pytest.raises(SiteRefusal, match=r"Hospital g1 is not in .*roster.json"):
        north.answer(m.Join(plan=plan.canonical()))
    (north._state / "floors.json").write_text('{"allow_newcomers": true}')
    assert north.answer(m.Join(plan=plan.canonical())).plan == plan.digest()


def test_nothing_is_answered_before_a_plan_is_joined(site_folders, tmp_path):
    site = Site(name="north", folder=site_folders / "north", state=tmp_path, ledgers=tmp_path)
    session = Session(run="run-0001", round=0, attempt=1, purpose="statistics")
    for request in (m.AdvertiseKeys(session=session), m.Statistics(session=session, plan="0" * 64)):
        with pytest.raises(ProtocolError, match="not joined"):
            site.answer(request)


def test_a_plan_that_does_not_fit_the_site_is_refused(joined):
    plan, north = joined.plan, joined.channel.sites["north"]
    stranger = plan.hospitals["north"].model_copy(update={"identity": "0" * 64})
    for change in (
        {"hospitals": {name: h for name, h in plan.hospitals.items() if name != "north"}},
        {"hospitals": {**plan.hospitals, "north": stranger}},
        {"hospitals": {**plan.hospitals, "river": stranger}},
        {"classes": ("viral", "bacterial", "normal")},
        {"pixels": 32},
    ):
        with pytest.raises(SiteRefusal):
            north.answer(m.Join(plan=plan.model_copy(update=change).canonical()))
    north.answer(m.Join(plan=plan.canonical()))


def test_a_sum_in_clear_needs_the_owners_consent(site_folders, params_with, tmp_path):
    params = params_with(secure_aggregation__scheme="none")
    plan = Joined(params, InProcessChannel(make_sites(site_folders, tmp_path, floors=CLEAR)), tmp_path).plan
    site = make_sites(site_folders, tmp_path, ["north"])["north"]
    with pytest.raises(SiteRefusal, match=r'write \{"allow_clear": true\} to .*north/floors.json'):
        site.answer(m.Join(plan=plan.canonical()))
    (tmp_path / "sites" / "north" / "floors.json").write_text('{"allow_clear": true}')
    site.answer(m.Join(plan=plan.canonical()))


@pytest.mark.parametrize("change", [{"delta": 1 / 20}, {"target_epsilon": 1e300}])
def test_noise_that_gives_up_a_patient_is_refused(private, change):
    plan = private.plan.model_copy(update={"privacy": private.plan.privacy.model_copy(update=change)})
    with pytest.raises(SiteRefusal, match=r"lower privacy.target_epsilon or privacy.delta"):
        private.channel.sites["north"].answer(m.Join(plan=plan.canonical()))


def test_a_private_answer_is_charged_even_if_nobody_ever_unmasks_it(private):
    talk = private.conversation(private.train())
    answer = talk.through(talk.answer)["north"]
    assert len(answer.vector) == len(private.train().model) + 4 * 3  # a weight, clipped entries, scaled down; no loss
    restart(private, "north")
    report = private.channel.sites["north"].answer(m.ReadLedger())
    assert (report.steps, report.attempts) == (1, 1)
    noise = private.plan.privacy.noise_multiplier
    spent = epsilon_of([Release(sampling_rate=1.0, noise_multiplier=noise, steps=1)], delta=1e-3)
    assert report.epsilon == pytest.approx(spent, rel=1e-3)
    assert private.plan.run in report.text


def test_a_refused_private_request_is_not_charged(private):
    talk = private.conversation(private.train())
    talk.through(talk.deliver)
    answers = talk.answer(private.train().model_copy(update={"total_weight": 144}))
    assert "total weight" in answers["north"].reason
    assert private.channel.sites["north"].answer(m.ReadLedger()).attempts == 0


def test_the_budget_of_a_run_is_never_exceeded(private):
    for attempt in (1, 2):  # the plan is calibrated to two releases
        talk = private.conversation(private.train(attempt=attempt))
        talk.through(talk.answer)
    assert private.channel.sites["north"].answer(m.ReadLedger()).epsilon <= 8.0 + 1e-3
    with pytest.raises(BudgetError, match="one more round would spend epsilon"):
        private.channel.sites["north"].answer(m.AdvertiseKeys(session=private.session("train", attempt=3)))


def test_a_private_sum_may_be_asked_anew_of_others_since_its_noise_is_fresh(site_folders, params_with, tmp_path):
    names = (*NAMES, "lake")
    params = params_with(privacy__enabled=True, federation__rounds=2, preprocess__hospitals=list(names))
    joined = Joined(params, InProcessChannel(make_sites(site_folders, tmp_path, names)), tmp_path)
    talk = joined.conversation(joined.train())
    talk.through(talk.unmask)
    again = joined.conversation(joined.train(round=2), NAMES)
    assert all(isinstance(answer, m.Revealed) for answer in again.through(again.unmask).values())


def test_a_runs_name_stands_for_one_plan(private):
    other = private.plan.model_copy(update={"rounds": 7})
    site = private.channel.sites["north"]
    with pytest.raises(SiteRefusal, match="had another plan before; start a new run"):
        site.answer(m.Join(plan=other.canonical()))
    restart(private, "north")
