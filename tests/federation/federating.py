"""Tiny hospitals, parameters, and a channel that calls real sites in this process."""

import functools
from pathlib import Path

import numpy as np
import torch

from primia.config import load_params, parse_params
from primia.data.image_set import ImageSet, save_image_set
from primia.data.origin import Origin, write_origin
from primia.errors import PrimiaError
from primia.federation import messages as m
from primia.federation.channel import Answers
from primia.federation.checkpoint import open_run
from primia.federation.codec import decode_request, decode_response, encode
from primia.federation.coordinator import Coordinator
from primia.federation.drafting import privacy_plan
from primia.federation.floors import Floors
from primia.federation.refusals import refusal_of
from primia.federation.run import describe
from primia.federation.site import Site
from primia.federation.vectors import bytes_to_words, words_to_bytes
from primia.federation.weights import head_vector, vector_digest
from primia.models.networks import build_network
from primia.secagg.graph import neighbours
from primia.secagg.session import Session

CLASSES = ("normal", "bacterial", "viral")
NAMES = ("north", "river", "hill")
FIVE = (*NAMES, "lake", "west")


def image_set(*, patients, seed, pixels=16):
    """Two images per patient; a class is told by which third of the image is bright."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(CLASSES), (patients,), generator=random).repeat_interleave(2)
    images = 0.4 * torch.rand(2 * patients, 1, pixels, pixels, generator=random)
    third = pixels // len(CLASSES)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, label * third : (label + 1) * third] += 0.5
    return ImageSet(
        images=images.to(torch.float16),
        labels=labels,
        patients=torch.arange(patients).repeat_interleave(2),
        image_ids=tuple(f"i{seed}-{i}" for i in range(2 * patients)),
        patient_ids=tuple(f"p{seed}-{i}" for i in range(patients)),
        classes=CLASSES,
    )


PHANTOMS = Origin(fingerprint="1" * 64, synthetic=True, marks=frozenset())
PATIENTS = Origin(fingerprint="2" * 64, synthetic=False, marks=frozenset({"a" * 16, "b" * 16}))


def write_sites(folder, names=FIVE, origin=PHANTOMS):
    for index, name in enumerate(names):
        write_origin(folder / name, origin)
        save_image_set(folder / name / "train.safetensors", image_set(patients=20 + 4 * index, seed=index))
        save_image_set(folder / name / "validation.safetensors", image_set(patients=9, seed=100 + index))
    return folder


def parameters(repository, **changes):
    """params.yaml made small; `changes` maps section__key to a value."""
    raw = load_params(repository / "params.yaml").model_dump(mode="json")
    settings = {
        "preprocess__pixels": 16,
        "encryption__pixels": 16,
        "preprocess__hospitals": list(NAMES),
        "model__architecture": "convnet",
        "model__seed": 1,
        "training__augment": False,
        "training__seed": 1,
        "training__local_epochs": 1,
        "training__learning_rate": 0.05,
        "training__batch_size": 8,
        "federation__rounds": 3,
        "federation__average": 0.0,
        "federation__deadline_s": 30.0,
        "secure_aggregation__scheme": "masking",
        "secure_aggregation__bits": 20,
        "secure_aggregation__clip_range": 0.25,
        "privacy__enabled": False,
        "privacy__target_epsilon": 8.0,
        "privacy__sampling_rate": 1.0,  # the accountant's answer is a formula then, and quick
        "privacy__delta": 1e-3,
        "privacy__site_population": 20,
        "privacy__local_steps": 1,
        "privacy__statistics_noise": 2.0,
        **changes,
    }
    for key, value in settings.items():
        section, _, name = key.partition("__")
        if name:
            raw[section][name] = value
        else:
            raw[section] = value
    return parse_params(raw)


class InProcessChannel:
    """Real sites, called directly.

    `tamper(name, request)` may change what a site is asked, and `spoil(name, request, response)` what it answers; a
    string instead of a response says how the site failed. `restart(name)` makes a new `Site` of the same state.
    """

    def __init__(self, sites, tamper=None, spoil=None):
        self.sites, self.tamper, self.spoil = dict(sites), tamper, spoil
        self.asked, self.restarted, self.down, self.received = [], [], {}, 0

    def ask(self, requests, *, deadline_s):
        received, failed = {}, {}
        for name, request in requests.items():
            if name not in self.down:
                answer = self._answer(name, decode_request(encode(request)))
                if isinstance(answer, str):
                    self.down[name] = answer
                else:
                    raw = encode(answer)
                    self.received += len(raw)
                    received[name] = decode_response(raw)
            if name in self.down:
                failed[name] = self.down[name]
        return Answers(received=received, failed=failed)

    def _answer(self, name, request):
        if self.tamper is not None:
            request = self.tamper(name, request)
        self.asked.append((name, request))
        try:
            response = self.sites[name].answer(request)
        except PrimiaError as error:
            response = refusal_of(error)
        return response if self.spoil is None else self.spoil(name, request, response)

    def restart(self, name):
        self.restarted.append(name)
        self.down.pop(name, None)
        self.sites[name] = restarted(self.sites[name])

    def bytes_received(self):
        return self.received


def make_site(folder, state, name, **options):
    site = Site(name=name, folder=folder / name, state=state / "sites" / name, ledgers=state / "ledgers", **options)
    site.made_of = (folder, state, name, options)
    return site


def restarted(site):
    """What a new process of the same hospital would be."""
    folder, state, name, options = site.made_of
    return make_site(folder, state, name, **options)


def make_sites(folder, state, names=NAMES, **options):
    return {name: make_site(folder, state, name, **options) for name in names}


@functools.cache
def calibrated(privacy, rounds):
    """The calibration takes seconds, and many tests share its outcome."""
    params = parameters(Path(__file__).resolve().parents[2], federation__rounds=rounds)
    return privacy_plan(params.model_copy(update={"privacy": privacy}))


def make_coordinator(params, channel, state, *, on_round=None, on_result=None):
    privacy = calibrated(params.privacy, params.federation.rounds)
    runs = state / "federation"
    plan, folder = open_run(runs, describe(channel, params, runs=runs, privacy=privacy))
    return Coordinator(
        plan,
        channel=channel,
        folder=folder,
        deadline_s=params.federation.deadline_s,
        on_round=on_round,
        on_result=on_result,
    )


CLEAR = Floors(allow_clear=True)


def federated(params, folders, state, *, tamper=None, spoil=None, on_round=None, on_result=None):
    """A whole run over new sites in this process, and the channel it took."""
    names = params.preprocess.hospitals
    floors = CLEAR if params.secure_aggregation.scheme == "none" else None
    channel = InProcessChannel(make_sites(folders, state, names, floors=floors), tamper, spoil)
    return make_coordinator(params, channel, state, on_round=on_round, on_result=on_result).run(), channel


class Conversation:
    """One session told step by step as an honest coordinator would; a test changes what it wants at any step.

    Every step returns the answers by name, refusals among them.
    """

    def __init__(self, channel, plan, request, names=None):
        self.channel, self.plan, self.request, self.session = channel, plan, request, request.session
        self.names = tuple(names or plan.hospitals)

    def tell(self, questions):
        """Ask everybody the same, or each what stands under its name."""
        requests = questions if isinstance(questions, dict) else dict.fromkeys(self.names, questions)
        answers = self.channel.ask(requests, deadline_s=60)
        assert not answers.failed
        return {name: answers.received[name] for name in requests}

    def advertise(self):
        answers = self.tell(m.AdvertiseKeys(session=self.session))
        self.keys = {name: answer.keys for name, answer in answers.items() if isinstance(answer, m.KeyAdvert)}
        return answers

    def share(self, keys=None, model=None):
        keys = keys or tuple(self.keys.values())
        answers = self.tell(
            m.ShareKeys(session=self.session, model=model or m.model_of(self.request), keys=tuple(keys))
        )
        self.sealed = {name: answer.sealed for name, answer in answers.items() if isinstance(answer, m.Shares)}
        return answers

    def delivery(self, name, cohort):
        among = [other for other in neighbours(self.keys.values(), session=self.session)[name] if other in cohort]
        shares = {sender: self.sealed[sender].shares[name] for sender in among}
        return m.DeliverShares(session=self.session, cohort=tuple(cohort), shares=shares)

    def deliver(self, cohort=None):
        self.cohort = tuple(cohort or self.sealed)
        return self.tell({name: self.delivery(name, self.cohort) for name in self.cohort})

    def answer(self, request=None):
        answers = self.tell(request or dict.fromkeys(self.cohort, self.request))
        self.vectors = {n: bytes_to_words(a.vector) for n, a in answers.items() if isinstance(a, m.MaskedInput)}
        return answers

    def sign(self, survivors=None):
        self.survivors = tuple(survivors or self.vectors)
        answers = self.tell(
            dict.fromkeys(self.survivors, m.Consistency(session=self.session, survivors=self.survivors))
        )
        self.signatures = {name: a.signature for name, a in answers.items() if isinstance(a, m.Signed)}
        return answers

    def unmask(self, **changes):
        dropped = tuple(name for name in self.cohort if name not in self.survivors)
        question = m.Unmask(session=self.session, survivors=self.survivors, dropped=dropped, signatures=self.signatures)
        answers = self.tell(dict.fromkeys(self.signatures, question.model_copy(update=changes)))
        self.revealed = {name: answer.shares for name, answer in answers.items() if isinstance(answer, m.Revealed)}
        return answers

    def through(self, last):
        """All steps up to and with `last`, honestly; returns the answers to it."""
        for step in (self.advertise, self.share, self.deliver, self.answer, self.sign, self.unmask):
            answers = step()
            if step == last:
                return answers
        raise AssertionError


class Joined:
    """Hospitals that agreed to one plan, and sessions with them that never repeat."""

    def __init__(self, params, channel, state):
        self.params, self.channel, self.state = params, channel, state
        self.coordinator = make_coordinator(params, channel, state)
        self.plan, self.names = self.coordinator._plan, params.preprocess.hospitals
        self.coordinator._cohort.join(self.names)
        self.round = 0

    def session(self, purpose="train", round=1, attempt=1):
        round = 0 if purpose == "statistics" else round
        return Session(run=self.plan.run, round=round, attempt=attempt, purpose=purpose)

    def statistics(self, attempt=1):
        return m.Statistics(session=self.session("statistics", attempt=attempt), plan=self.plan.digest())

    def model(self, value=None):
        start = head_vector(build_network("convnet", classes=3, pixels=16, seed=1).head)
        return start if value is None else np.full_like(start, value)

    def evaluate(self, *, value=None, shift=0.0, **place):
        model = self.model(value) + np.float32(shift)
        return m.Evaluate(
            session=self.session("evaluate", **place),
            plan=self.plan.digest(),
            model=words_to_bytes(model),
            model_digest=vector_digest(model),
            mean=0.4,
            std=0.3,
        )

    def train(self, *, value=None, **place):
        asked = self.evaluate(value=value, **place)
        return m.Train(
            **dict(asked) | {"session": self.session("train", **place)},
            total_weight=1000 if self.plan.privacy is None else len(self.names),
            counted=tuple(self.names),
            spare=0,
            class_weights=None,
        )

    def conversation(self, request, names=None):
        return Conversation(self.channel, self.plan, request, names)


def totals(*parts):
    """The sum of what several sites say, as the coordinator reads it."""
    return {key: sum(np.atleast_1d(np.asarray(p[key], dtype=np.int64)) for p in parts) for key in parts[0]}
