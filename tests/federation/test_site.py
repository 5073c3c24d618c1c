import stat

import numpy as np
import pytest
from federating import NAMES, InProcessChannel, make_coordinator, make_sites

from primia.errors import DataError, FederationError, PrivacyError, ProtocolError, SiteRefusal
from primia.federation import messages as m
from primia.federation.aggregate import aggregate
from primia.federation.refusals import BudgetError
from primia.federation.site import Site
from primia.federation.tally import statistics_layout
from primia.federation.weights import head_vector, vector_digest
from primia.models.networks import build_network
from primia.privacy.accounting import Release, epsilon_of
from primia.secagg.session import Session


class Cohort:
    """Three joined sites, and the coordinator's messages to them, honest unless changed."""

    def __init__(self, params, folders, state):
        self.folders, self.state = folders, state
        self.channel = InProcessChannel(make_sites(folders, state))
        self.coordinator = make_coordinator(params, self.channel, state)
        self.plan = self.coordinator._plan
        self.coordinator._join(NAMES)

    @property
    def sites(self):
        return self.channel.sites

    def restart(self, name):
        self.sites[name] = Site(name=name, folder=self.folders / name, state=self.state / "sites" / name)
        self.sites[name].answer(m.Join(plan=self.plan.canonical()))

    def session(self, purpose, round=1, attempt=1):
        return Session(
            run=self.plan.run, round=0 if purpose == "statistics" else round, attempt=attempt, purpose=purpose
        )

    def statistics(self, attempt=1):
        return m.Statistics(session=self.session("statistics", attempt=attempt), plan=self.plan.digest())

    def train(self, *, value=None, **place):
        head = build_network("convnet", classes=3, pixels=16, seed=1).head
        model = head_vector(head) if value is None else np.full_like(head_vector(head), value)
        return m.Train(
            session=self.session("train", **place),
            plan=self.plan.digest(),
            model=m.words_to_bytes(model),
            model_digest=vector_digest(model),
            mean=0.4,
            std=0.3,
            total_weight=144 if self.plan.privacy is None else 3,
        )

    def exchange_keys(self, session):
        keys = tuple(self.sites[name].answer(m.AdvertiseKeys(session=session)).key for name in NAMES)
        for name in NAMES:
            self.sites[name].answer(m.ShareKeys(session=session, keys=keys))

    def consistent(self, session):
        signed = {name: self.sites[name].answer(m.Consistency(session=session, survivors=NAMES)) for name in NAMES}
        return m.Unmask(session=session, survivors=NAMES, signatures={name: s.signature for name, s in signed.items()})

    def sum(self, request, size):
        return aggregate(self.channel, request, sites=NAMES, masked=True, size=size, deadline_s=60)


@pytest.fixture
def cohort(site_folders, params_with, tmp_path):
    return Cohort(params_with(), site_folders, tmp_path)


@pytest.fixture
def private(site_folders, params_with, tmp_path):
    return Cohort(params_with(privacy__enabled=True, federation__rounds=2), site_folders, tmp_path)


def test_the_state_of_a_site_is_closed_to_others(cohort):
    for name in NAMES:
        state = cohort.state / "sites" / name
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert {p.name for p in state.iterdir()} >= {"identity.pem", "roster.json"}
        for path in (p for p in state.rglob("*") if p.is_file()):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_missing_or_empty_split_is_named(tmp_path):
    with pytest.raises(DataError, match=r"train.safetensors is missing"):
        Site(name="north", folder=tmp_path / "nowhere", state=tmp_path / "state")


def test_a_sum_of_statistics_comes_out_and_no_second_time(cohort):
    layout = statistics_layout(cohort.plan)
    totals = layout.unpack(cohort.sum(cohort.statistics(), layout.size))
    assert totals["images"].tolist() == [40 + 48 + 56]
    with pytest.raises(ProtocolError, match="answered before"):
        cohort.sum(cohort.statistics(), layout.size)


def test_a_replayed_attempt_is_refused_after_a_restart(cohort):
    cohort.sum(cohort.statistics(), 3)
    cohort.restart("north")
    with pytest.raises(ProtocolError, match="answered before"):
        cohort.sites["north"].answer(m.AdvertiseKeys(session=cohort.session("statistics")))
    # the same question with fresh keys gives the same sum and is allowed
    assert cohort.sum(cohort.statistics(2), 3).tolist() == cohort.sum(cohort.statistics(3), 3).tolist()


def test_a_session_is_not_opened_twice(cohort):
    session = cohort.session("statistics")
    cohort.exchange_keys(session)
    with pytest.raises(ProtocolError, match="advertised before"):
        cohort.sites["north"].answer(m.AdvertiseKeys(session=session))
    cohort.sites["north"].answer(cohort.statistics())
    with pytest.raises(ProtocolError, match="used up"):
        cohort.sites["north"].answer(cohort.statistics())


def test_another_model_after_the_sum_was_unmasked_is_refused(cohort):
    cohort.exchange_keys(cohort.session("train"))
    for site in cohort.sites.values():
        site.answer(cohort.train())
    unmask = cohort.consistent(cohort.session("train"))
    for site in cohort.sites.values():
        site.answer(unmask)
    cohort.exchange_keys(cohort.session("train", attempt=2))
    with pytest.raises(SiteRefusal, match="was unmasked"):
        cohort.sites["north"].answer(cohort.train(attempt=2, value=0.0))


def test_different_models_for_different_sites_never_unmask(cohort):
    session = cohort.session("train")
    cohort.exchange_keys(session)
    for name, site in cohort.sites.items():
        site.answer(cohort.train(value=0.01 if name == "hill" else None))
    unmask = cohort.consistent(session)
    for site in cohort.sites.values():
        with pytest.raises(ProtocolError, match="did not sign the same transcript"):
            site.answer(unmask)


def test_a_dropped_site_is_not_unmasked_beside_its_survival(cohort):
    session = cohort.session("statistics")
    cohort.exchange_keys(session)
    for site in cohort.sites.values():
        site.answer(cohort.statistics())
    unmask = cohort.consistent(session)
    for site in cohort.sites.values():
        with pytest.raises(ProtocolError, match="start a new attempt"):
            site.answer(unmask.model_copy(update={"dropped": ("hill",)}))


def test_requests_outside_the_plan_are_refused(cohort):
    north = cohort.sites["north"]
    for session in (
        cohort.session("train", round=4),
        cohort.session("train").model_copy(update={"run": "another-run"}),
        cohort.session("train").model_copy(update={"round": 0}),
        cohort.session("statistics").model_copy(update={"round": 1}),
    ):
        with pytest.raises(ProtocolError, match="not part of the plan"):
            north.answer(m.AdvertiseKeys(session=session))
    with pytest.raises(ProtocolError, match="no open session"):
        north.answer(cohort.train())
    cohort.exchange_keys(cohort.session("train"))
    good = cohort.train()
    for change, reason in (
        ({"plan": "0" * 64}, "another plan"),
        ({"model_digest": "0" * 64}, "does not match its digest"),
        ({"total_weight": 30}, "total weight"),
    ):
        cohort.restart("north")
        attempt = {"plan": 2, "model_digest": 3, "total_weight": 4}[next(iter(change))]
        cohort.exchange_keys(cohort.session("train", attempt=attempt))
        request = good.model_copy(update={**change, "session": cohort.session("train", attempt=attempt)})
        with pytest.raises(FederationError, match=reason):
            cohort.sites["north"].answer(request)
    with pytest.raises(ProtocolError, match="in a session for statistics"):
        cohort.sites["north"].answer(good.model_copy(update={"session": cohort.session("statistics")}))


def test_nothing_is_answered_before_a_plan_is_joined(site_folders, tmp_path):
    site = Site(name="north", folder=site_folders / "north", state=tmp_path)
    session = Session(run="run-0001", round=0, attempt=1, purpose="statistics")
    for request in (m.AdvertiseKeys(session=session), m.Statistics(session=session, plan="0" * 64)):
        with pytest.raises(ProtocolError, match="not joined"):
            site.answer(request)


def test_a_plan_that_does_not_fit_the_site_is_refused(cohort):
    plan, north = cohort.plan, cohort.sites["north"]
    stranger = plan.hospitals["north"].model_copy(update={"identity": "0" * 64})
    for change in (
        {"hospitals": {name: h for name, h in plan.hospitals.items() if name != "north"}},
        {"hospitals": {**plan.hospitals, "north": stranger}},
        {"hospitals": {**plan.hospitals, "river": stranger}},
        {"hospitals": {name: h for name, h in plan.hospitals.items() if name != "hill"}},
        {"classes": ("viral", "bacterial", "normal")},
        {"pixels": 32},
    ):
        with pytest.raises(SiteRefusal):
            north.answer(m.Join(plan=plan.model_copy(update=change).canonical()))
    north.answer(m.Join(plan=plan.canonical()))


def test_a_delta_that_gives_up_a_patient_is_refused(private):
    privacy = private.plan.privacy.model_copy(update={"delta": 1 / 20})
    plan = private.plan.model_copy(update={"privacy": privacy})
    with pytest.raises(PrivacyError, match=r"privacy.delta"):
        private.sites["north"].answer(m.Join(plan=plan.canonical()))


def test_a_private_answer_is_charged_even_if_nobody_ever_unmasks_it(private):
    session = private.session("train")
    private.exchange_keys(session)
    answer = private.sites["north"].answer(private.train())
    assert len(answer.vector) == len(private.train().model) + 4 * 2  # and a weight and a clipped count
    private.restart("north")
    report = private.sites["north"].answer(m.ReadLedger(text=True))
    assert (report.steps, report.attempts) == (1, 1)
    noise = private.plan.privacy.noise_multiplier
    spent = epsilon_of([Release(sampling_rate=0.25, noise_multiplier=noise, steps=1)], delta=1e-3)
    assert report.epsilon == pytest.approx(spent, rel=1e-3)
    assert private.plan.run in report.text


def test_a_refused_private_request_is_not_charged(private):
    private.exchange_keys(private.session("train"))
    with pytest.raises(SiteRefusal):
        private.sites["north"].answer(private.train().model_copy(update={"total_weight": 144}))
    assert private.sites["north"].answer(m.ReadLedger(text=False)).attempts == 0


def test_the_budget_of_a_run_is_never_exceeded(private):
    for attempt in (1, 2):  # the plan is calibrated to two releases
        private.exchange_keys(private.session("train", attempt=attempt))
        private.sites["north"].answer(private.train(attempt=attempt))
    assert private.sites["north"].answer(m.ReadLedger(text=False)).epsilon <= 8.0 + 1e-3
    with pytest.raises(BudgetError, match="one more round would spend epsilon"):
        private.sites["north"].answer(m.AdvertiseKeys(session=private.session("train", attempt=3)))
