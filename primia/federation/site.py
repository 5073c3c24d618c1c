"""A hospital's side of the federation: it answers the closed set of requests, and refuses what it should not answer."""

import hmac
import json
from pathlib import Path

import numpy as np

from primia.data.image_set import load_image_set
from primia.data.origin import read_origin
from primia.errors import DataError, ProtocolError, SiteRefusal
from primia.federation import messages as m
from primia.federation.budget import open_account
from primia.federation.codec import content_digest
from primia.federation.floors import Floors, check_plan, read_floors
from primia.federation.history import History
from primia.federation.plan import Plan, read_plan
from primia.federation.released_sums import ReleasedSums
from primia.federation.site_session import Guard, SiteSession
from primia.federation.student_work import StudentWork
from primia.federation.summed_changes import train_layout, weighted_loss
from primia.federation.summed_statistics import statistics_layout, statistics_values
from primia.federation.summed_validation import evaluate_layout, evaluate_values
from primia.federation.vectors import bytes_to_floats, words_to_bytes
from primia.federation.weights import Floats, vector_digest
from primia.federation.work import LocalWork
from primia.files import read_json, sha256_of_file, write_bytes
from primia.privacy.noise import NoiseSource, SystemNoise
from primia.secagg.keys import load_or_create_identity
from primia.secagg.masks import Words
from primia.secagg.quantise import rounding_stream
from primia.secagg.session import Session

_LARGEST_WEIGHT = 1e4
_SMALLEST_STD = 0.99e-3  # that of blank images, rounded to float32


class Site:
    """One hospital: its images in `folder`, and in `state` and `ledgers` what must outlive the process.

    `state` (mode 0700) holds the identity key, the identities of the other hospitals as first seen, how far the
    ledger has come, the latest answer of every run, the sums that were unmasked, and the owner's floors.json.
    `ledgers` holds the privacy ledger of every source whose patients were ever trained on.

    Raises:
        DataError: the folder lacks a split or origin.json, or one is damaged or empty.
        PrivacyError: the ledger was changed, rolled back, or is of another source or a newer version.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        state: Path,
        ledgers: Path,
        noise: NoiseSource | None = None,
        floors: Floors | None = None,
    ) -> None:
        """`floors` stand in for floors.json, for one machine whose owner owns all hospitals."""
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
        self._sums = ReleasedSums(state / "sums.jsonl", data=self._data)
        self._account = open_account(name, read_origin(folder), ledgers=ledgers, state=state)
        self._noise, self._floors = noise or SystemNoise(), floors
        self._plan: Plan | None = None
        self._work: LocalWork | StudentWork | None = None
        self._guard: Guard | None = None
        self._open: SiteSession | None = None

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
                    depth=self._train.depth,
                )
            case m.Join():
                return self._join(read_plan(request.plan), teacher=request.teacher)
            case m.ReadLedger():
                return self._account.report(self._agreed())
            case m.AdvertiseKeys():
                return self._advertise(request.session)
            case m.ShareKeys():
                return m.Shares(session=request.session, sealed=self._current(request.session).share(request))
            case m.MakeGroupKey():
                return self._current(request.session).make_group_key()
            case m.DeliverShares():
                self._current(request.session).receive(request)
                return m.Accepted(session=request.session)
            case m.Statistics() | m.Train() | m.Evaluate():
                return self._masked(request)
            case m.DecryptSum():
                return self._current(request.session).decrypt(request)
            case m.Consistency():
                signature = self._current(request.session).sign(request.survivors)
                return m.Signed(session=request.session, signature=signature)
            case m.Unmask():
                return self._unmask(request)

    def _join(self, plan: Plan, *, teacher: bytes | None) -> m.Joined:
        mine = plan.hospitals.get(self.name)
        if mine is None or mine.identity != self._identity.public.hex() or mine.data != self._data:
            raise SiteRefusal(f"The plan does not name {self.name} with its present identity and data.")
        mine_has = (self._train.classes, self._train.pixels, self._train.depth, self._train.masks)
        if mine_has != (plan.classes, plan.pixels, plan.depth, plan.segments):
            raise SiteRefusal(
                "The plan has other classes, another task or another image size than this hospital's images."
            )
        if plan.synthetic and not self._account.synthetic:
            raise SiteRefusal(
                "The plan takes all images for phantoms, but this hospital's show patients; correct ingest.source, and "
                "run the ingest and preprocess stages again."
            )
        path = self._state / "floors.json"
        floors = self._floors or read_floors(path)
        check_plan(floors, plan, path=path)
        self._pin(plan, newcomers=floors.allow_newcomers)
        work = self._work_on(plan, teacher=teacher)
        if plan.distributed:
            plan.noise_share(work.parameters)  # refused now, not after it was paid for
        self._bind(plan)
        self._work = work
        self._guard = Guard(floors=floors, path=path, sums=self._sums)
        self._plan, self._open = plan, None
        return m.Joined(plan=plan.digest())

    def _work_on(self, plan: Plan, *, teacher: bytes | None) -> LocalWork | StudentWork:
        if (teacher is None) != (plan.student is None):
            raise ProtocolError("The weights of a teacher come with a plan that has a student, and with no other.")
        if teacher is None:
            return LocalWork(plan, name=self.name, train=self._train, validation=self._validation, state=self._state)
        weights = bytes_to_floats(teacher)
        return StudentWork(plan, name=self.name, train=self._train, validation=self._validation, teacher=weights)

    def _bind(self, plan: Plan) -> None:
        """Let a run's name stand for one plan only, since the ledger adds up by run what was dealt in one way."""
        path = self._state / "plans.json"
        plans = read_json(path) if path.exists() else {}
        if not hmac.compare_digest(plans.setdefault(plan.run, plan.digest()), plan.digest()):
            raise SiteRefusal(f"Run {plan.run} had another plan before; start a new run.")
        write_bytes(path, json.dumps(plans, indent=2, sort_keys=True).encode(), mode=0o600)

    def _pin(self, plan: Plan, *, newcomers: bool) -> None:
        """Remember every hospital's identity when the first plan is seen, and refuse others later."""
        path = self._state / "roster.json"
        known = path.exists()
        pinned = read_json(path) if known else {}
        for name, hospital in plan.hospitals.items():
            if known and not newcomers and name not in pinned:
                raise SiteRefusal(
                    f"Hospital {name} is not in {path}; if the owner knows it, write its name and its identity "
                    "(Ed25519 public key, hexadecimal) there, as docs/hospital.md says."
                )
            if not hmac.compare_digest(pinned.setdefault(name, hospital.identity), hospital.identity):
                raise SiteRefusal(
                    f"Hospital {name} shows another identity than the one pinned in {path}; "
                    "if it really made a new one, remove its line there."
                )
        write_bytes(path, json.dumps(pinned, indent=2, sort_keys=True).encode(), mode=0o600)

    def _agreed(self) -> Plan:
        if self._plan is None:
            raise ProtocolError("This hospital has not joined a plan yet.")
        return self._plan

    def _joined(self, session: Session) -> tuple[Plan, LocalWork | StudentWork]:
        plan = self._agreed()
        assert self._work is not None
        expected_rounds = range(1) if session.purpose == "statistics" else range(1, plan.rounds + 1)
        if session.run != plan.run or session.round not in expected_rounds:
            raise ProtocolError(f"{session} of run {session.run} is not part of the plan this hospital joined.")
        return plan, self._work

    def _advertise(self, session: Session) -> m.KeyAdvert:
        plan, _ = self._joined(session)
        if not plan.masked:
            raise ProtocolError("The plan has no masking; there are no keys to advertise.")
        self._history.check(session)
        if self._open is not None and self._open.session == session:
            raise ProtocolError(f"The keys for {session} were advertised before; start a new attempt.")
        guard, ledger = self._guard, self._account.head()
        assert guard is not None
        self._account.check(plan, session.purpose, floors=guard.floors, path=guard.path)  # before anybody draws noise
        self._open = SiteSession(session, plan, name=self.name, identity=self._identity, guard=guard, ledger=ledger)
        return m.KeyAdvert(session=session, keys=self._open.advertise())

    def _current(self, session: Session) -> SiteSession:
        if self._open is None or self._open.session != session:
            raise ProtocolError(f"There is no open session for {session}; advertise keys first.")
        return self._open

    def _masked(self, request: m.MaskedRequest) -> m.MaskedInput:
        session = request.session
        plan, work = self._joined(session)
        if session.purpose != type(request).__name__.lower():
            raise ProtocolError(f"A {type(request).__name__} request came in a session for {session.purpose}.")
        if request.plan != plan.digest():
            raise ProtocolError(f"{session} belongs to another plan than the one this hospital joined.")
        if plan.masked:
            self._current(session).ready(request)
        assert self._guard is not None
        self._account.check(plan, session.purpose, floors=self._guard.floors, path=self._guard.path)
        content = content_digest(request)
        self._history.admit(session, content=content, fresh_noise=plan.privacy is not None)
        match request:
            case m.Statistics():
                self._spend(plan, session)
                values = statistics_values(
                    plan, self._train.images, self._train.labels, self._train.patients, noise=self._noise
                )
                vector = statistics_layout(plan).pack(values)
            case m.Train():
                vector = self._trained(request, plan, work)
            case m.Evaluate():
                logits = work.validate(_checked_model(request, work), mean=request.mean, std=request.std)
                self._spend(plan, session)
                values = evaluate_values(
                    plan, logits, self._validation.labels, self._validation.patients, noise=self._noise
                )
                vector = evaluate_layout(plan).pack(values)
        if plan.masked:
            return m.MaskedInput(session=session, vector=self._current(session).mask(vector, request=content))
        self._history.release(session)
        return m.MaskedInput(session=session, vector=words_to_bytes(vector))

    def _trained(self, request: m.Train, plan: Plan, work: LocalWork | StudentWork) -> Words:
        model, weight = _checked_model(request, work), self._weight(request, plan)
        weights = request.class_weights
        if (weights is None) == plan.training.class_weights or len(weights or plan.classes) != len(plan.classes):
            raise ProtocolError("The request weighs the classes otherwise than the plan says.")
        layout = train_layout(plan, parameters=work.parameters, total_weight=request.total_weight)
        session = request.session
        self._spend(plan, session)
        if plan.distributed:
            assert isinstance(work, LocalWork)  # the floors let no student into differential privacy
            gradient = work.gradient(model, mean=request.mean, std=request.std, noise=self._noise)
            return plan.noise_share(len(gradient)).words(gradient, noise=self._noise)
        result = work.train(
            model,
            mean=request.mean,
            std=request.std,
            round=session.round,
            noise=self._noise,
            class_weights=request.class_weights,
        )
        stream = rounding_stream(plan.training.seed, round=session.round, site=self.name)
        vector = layout.empty()
        delta = layout.signed_part(vector, "delta")
        _, clipped = plan.quantiser.quantise(result.delta, stream, weight=weight, out=delta)
        return layout.pack(
            {
                "weight": weight,
                "clipped": clipped,
                "shrunk": int(result.shrunk),
                "loss": weighted_loss(plan, result.loss, weight=weight),
            },
            into=vector,
        )

    def _spend(self, plan: Plan, session: Session) -> None:
        """Charge the ledger for what the site is about to add noise to."""
        assert self._guard is not None
        self._account.charge(plan, session, floors=self._guard.floors, path=self._guard.path)

    def _weight(self, request: m.Train, plan: Plan) -> int:
        """The public constant 1 with differential privacy, else the number of training images, at most the public cap.

        A weight above its cap is lowered without a word: a refusal would tell how many images there are.
        """
        if plan.weights == "images":
            return min(len(self._train), request.total_weight if self.name in request.counted else request.spare)
        if request.total_weight != len(plan.hospitals):
            raise SiteRefusal(f"A total weight of {request.total_weight} is not the number of the plan's hospitals.")
        return 1

    def _unmask(self, request: m.Unmask) -> m.Revealed:
        shares = self._current(request.session).reveal(request)
        self._history.release(request.session)
        self._open = None
        return m.Revealed(session=request.session, shares=shares)


def _checked_model(request: m.Train | m.Evaluate, work: LocalWork | StudentWork) -> Floats:
    model = bytes_to_floats(request.model)
    if not hmac.compare_digest(vector_digest(model), request.model_digest) or len(model) != work.parameters:
        raise ProtocolError("The model does not match its digest or the plan's architecture.")
    # Beyond these bounds results may overflow for some images and not for others, and the error would tell which.
    sane = np.abs(model).max(initial=0.0) <= _LARGEST_WEIGHT  # also false for what is no number
    if not sane or not 0.0 <= request.mean <= 1.0 or not _SMALLEST_STD <= request.std <= 1.0:
        raise ProtocolError("The model, mean or deviation lies outside the range that images in [0, 1] can lead to.")
    return model
