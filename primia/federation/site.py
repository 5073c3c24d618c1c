"""A hospital's side of the federation: it answers the closed set of requests, and refuses what it should not answer."""

import functools
import hmac
import json
from pathlib import Path

from primia.data.image_set import load_image_set
from primia.errors import DataError, PrivacyError, ProtocolError, SiteRefusal
from primia.federation import messages as m
from primia.federation.history import History
from primia.federation.plan import Plan, PrivacyPlan, read_plan
from primia.federation.refusals import BudgetError
from primia.federation.tally import (
    evaluate_layout,
    evaluate_values,
    statistics_layout,
    statistics_values,
    train_layout,
)
from primia.federation.weights import Floats, vector_digest
from primia.federation.work import LocalWork
from primia.files import read_json, sha256_of_file, write_bytes
from primia.privacy.accounting import Release, epsilon_of
from primia.privacy.ledger import Ledger
from primia.privacy.noise import NoiseSource, SystemNoise
from primia.secagg.keys import load_or_create_identity
from primia.secagg.masks import Words
from primia.secagg.participant import Participant, check_cohort
from primia.secagg.quantise import rounding_stream
from primia.secagg.session import Session

_BUDGET_SLACK = 1e-3  # of epsilon: the accountant's own error bound


class Site:
    """One hospital: its images in `folder`, and in `state` what must outlive the process.

    `state` (mode 0700) holds the identity key, the identities of the other hospitals as first seen, the privacy
    ledger, and the latest answer of every run.

    Raises:
        DataError: the folder lacks a split, or a split is damaged or empty.
    """

    def __init__(self, *, name: str, folder: Path, state: Path, noise: NoiseSource | None = None) -> None:
        self.name = name
        self._train = load_image_set(folder / "train.safetensors")
        self._validation = load_image_set(folder / "validation.safetensors")
        for split, images in (("training", self._train), ("validation", self._validation)):
            if len(images) == 0:
                raise DataError(f"Hospital {name} has no {split} image; deal it more patients in preprocess.")
        contents = "".join(sha256_of_file(folder / f"{split}.safetensors") for split in ("train", "validation"))
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.chmod(0o700)
        self._state = state
        self._identity = load_or_create_identity(state / "identity.pem")
        self._data = self._identity.fingerprint(contents.encode())
        self._history = History(state / "answered")
        self._ledger = Ledger(state / "ledger.jsonl")
        self._ledger.verify()
        self._noise = noise or SystemNoise()
        self._plan: Plan | None = None
        self._work: LocalWork | None = None
        self._participant: Participant | None = None

    def answer(self, request: m.Request) -> m.Response:
        """Answer one request.

        Raises:
            PrimiaError: the site refuses; the sentence says why and holds nothing about a patient.
        """
        match request:
            case m.Describe():
                return m.Description(
                    name=self.name,
                    identity=self._identity.public,
                    data=self._data,
                    classes=self._train.classes,
                    pixels=self._train.pixels,
                )
            case m.Join():
                return self._join(read_plan(request.plan))
            case m.ReadLedger():
                return self._read_ledger(text=request.text)
            case m.AdvertiseKeys():
                return self._advertise(request.session)
            case m.ShareKeys():
                self._current(request.session).accept(request.keys)
                return m.Shares(session=request.session)
            case m.Statistics() | m.Train() | m.Evaluate():
                return self._masked(request)
            case m.Consistency():
                signature = self._current(request.session).sign(request.survivors)
                return m.Signed(session=request.session, signature=signature)
            case m.Unmask():
                return self._unmask(request)

    def _join(self, plan: Plan) -> m.Joined:
        mine = plan.hospitals.get(self.name)
        if mine is None or mine.identity != self._identity.public.hex() or mine.data != self._data:
            raise SiteRefusal(f"The plan does not name {self.name} with its present identity and data.")
        if plan.classes != self._train.classes or plan.pixels != self._train.pixels:
            raise SiteRefusal("The plan has other classes or another image size than this hospital's images.")
        if plan.masked:
            check_cohort(len(plan.hospitals))
        patients = len(self._train.patient_ids)
        if plan.privacy is not None and plan.privacy.delta * patients >= 1:
            raise PrivacyError(
                f"privacy.delta is {plan.privacy.delta}, but must be below 1 / patients of this hospital; lower it."
            )
        self._pin(plan)
        self._plan, self._participant = plan, None
        self._work = LocalWork(plan, name=self.name, train=self._train, validation=self._validation)
        return m.Joined(plan=plan.digest())

    def _pin(self, plan: Plan) -> None:
        """Remember every hospital's identity when it is first seen, and refuse another one later."""
        path = self._state / "roster.json"
        pinned = read_json(path) if path.exists() else {}
        for name, hospital in plan.hospitals.items():
            if not hmac.compare_digest(pinned.setdefault(name, hospital.identity), hospital.identity):
                raise SiteRefusal(
                    f"Hospital {name} shows another identity than the one pinned in {path}; "
                    "if it really made a new one, remove its line there."
                )
        write_bytes(path, json.dumps(pinned, indent=2, sort_keys=True).encode(), mode=0o600)

    def _joined(self, session: Session) -> tuple[Plan, LocalWork]:
        if self._plan is None or self._work is None:
            raise ProtocolError("This hospital has not joined a plan yet.")
        expected_rounds = range(1) if session.purpose == "statistics" else range(1, self._plan.rounds + 1)
        if session.run != self._plan.run or session.round not in expected_rounds:
            raise ProtocolError(f"{session} of run {session.run} is not part of the plan this hospital joined.")
        return self._plan, self._work

    def _advertise(self, session: Session) -> m.KeyAdvert:
        plan, _ = self._joined(session)
        if not plan.masked:
            raise ProtocolError("The plan has no masking; there are no keys to advertise.")
        self._history.check(session)
        if self._participant is not None and self._participant.session == session:
            raise ProtocolError(f"The keys for {session} were advertised before; start a new attempt.")
        if session.purpose == "train":
            self._check_budget(plan)  # before anybody draws noise for this round
        self._participant = Participant(
            name=self.name,
            identity=self._identity,
            session=session,
            plan=plan.digest(),
            roster={name: bytes.fromhex(hospital.identity) for name, hospital in plan.hospitals.items()},
        )
        return m.KeyAdvert(session=session, key=self._participant.advertise())

    def _current(self, session: Session) -> Participant:
        if self._participant is None or self._participant.session != session:
            raise ProtocolError(f"There is no open session for {session}; advertise keys first.")
        return self._participant

    def _masked(self, request: m.MaskedRequest) -> m.MaskedInput:
        session = request.session
        plan, work = self._joined(session)
        if session.purpose != type(request).__name__.lower():
            raise ProtocolError(f"A {type(request).__name__} request came in a session for {session.purpose}.")
        if request.plan != plan.digest():
            raise ProtocolError(f"{session} belongs to another plan than the one this hospital joined.")
        if plan.masked:
            self._current(session).ready()
        private = isinstance(request, m.Train) and plan.privacy is not None
        if private:
            self._check_budget(plan)
        content = m.content_digest(request)
        self._history.admit(session, content=content, fresh_noise=private)
        match request:
            case m.Statistics():
                vector = statistics_layout(plan).pack(statistics_values(self._train.images))
            case m.Train():
                vector = self._trained(request, plan, work)
            case m.Evaluate():
                logits = work.validate(_checked_model(request, work), mean=request.mean, std=request.std)
                vector = evaluate_layout(plan).pack(evaluate_values(logits, self._validation.labels))
        if plan.masked:
            self._current(session).mask(vector, request=content)
        else:
            self._history.release(session)
        return m.MaskedInput(session=session, vector=m.words_to_bytes(vector))

    def _trained(self, request: m.Train, plan: Plan, work: LocalWork) -> Words:
        model = _checked_model(request, work)
        weight = len(self._train) if plan.weights == "images" else 1
        expected_total = len(plan.hospitals) if plan.weights == "equal" else request.total_weight
        if request.total_weight != expected_total or weight > request.total_weight:
            raise SiteRefusal(f"A total weight of {request.total_weight} does not fit this hospital's own weight.")
        layout = train_layout(plan, parameters=work.parameters, total_weight=request.total_weight)
        session = request.session
        if plan.privacy is not None:
            # Charged before any noise is drawn: a release that is interrupted counts as spent.
            self._ledger.charge(
                run=plan.run,
                round=session.round,
                attempt=session.attempt,
                release=_release(plan.privacy),
                delta=plan.privacy.delta,
                synthetic=plan.synthetic,
            )
        delta = work.train(model, mean=request.mean, std=request.std, round=session.round, noise=self._noise)
        stream = rounding_stream(plan.training.seed, round=session.round, site=self.name)
        integers, clipped = plan.quantiser.quantise(delta, stream)
        return layout.pack({"delta": integers * weight, "weight": weight, "clipped": clipped})

    def _unmask(self, request: m.Unmask) -> m.SelfMask:
        participant = self._current(request.session)
        seed = participant.reveal(survivors=request.survivors, dropped=request.dropped, signatures=request.signatures)
        self._history.release(request.session)
        self._participant = None
        return m.SelfMask(session=request.session, seed=seed)

    def _check_budget(self, plan: Plan) -> None:
        if plan.privacy is None:
            return
        planned = (*self._ledger.releases(plan.run), _release(plan.privacy))
        after = _epsilon(planned, plan.privacy.delta)
        if after > plan.privacy.target_epsilon + _BUDGET_SLACK:
            raise BudgetError(
                f"one more round would spend epsilon {after:.3f} of {plan.privacy.target_epsilon:g} at this hospital."
            )

    def _read_ledger(self, *, text: bool) -> m.LedgerReport:
        if self._plan is None:
            raise ProtocolError("This hospital has not joined a plan yet.")
        privacy, charged = self._plan.privacy, tuple(self._ledger.releases(self._plan.run))
        report = m.LedgerReport(
            epsilon=_epsilon(charged, privacy.delta) if privacy else 0.0,
            steps=sum(release.steps for release in charged),
            attempts=len(charged),
        )
        if not text or privacy is None:
            return report
        lines = self._ledger.path.read_text(errors="replace") if self._ledger.path.exists() else ""
        everything = _epsilon(tuple(self._ledger.releases()), privacy.delta)
        return report.model_copy(update={"epsilon_all_runs": everything, "text": lines})


@functools.cache
def _epsilon(releases: tuple[Release, ...], delta: float) -> float:
    """Spent epsilon; kept, since the accountant takes a second and is asked about the same releases twice a round."""
    return epsilon_of(releases, delta=delta)


def _release(privacy: PrivacyPlan) -> Release:
    return Release(
        sampling_rate=privacy.sampling_rate,
        noise_multiplier=privacy.noise_multiplier,
        steps=privacy.local_steps,
    )


def _checked_model(request: m.Train | m.Evaluate, work: LocalWork) -> Floats:
    model = m.bytes_to_floats(request.model)
    if not hmac.compare_digest(vector_digest(model), request.model_digest) or len(model) != work.parameters:
        raise ProtocolError("The model does not match its digest or the plan's architecture.")
    return model
