"""Tiny hospitals, parameters, and a channel that calls real sites in this process."""

import functools
from pathlib import Path

import torch

from primia.config import load_params, parse_params
from primia.data.image_set import ImageSet, save_image_set
from primia.errors import PrimiaError
from primia.federation import messages as m
from primia.federation.channel import Answers, exchange
from primia.federation.checkpoint import open_run
from primia.federation.coordinator import Coordinator
from primia.federation.plan import draft_plan, privacy_plan
from primia.federation.refusals import refusal_of
from primia.federation.site import Site

CLASSES = ("normal", "bacterial", "viral")
NAMES = ("north", "river", "hill")


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


def write_sites(folder, names=NAMES):
    for index, name in enumerate(names):
        save_image_set(folder / name / "train.safetensors", image_set(patients=20 + 4 * index, seed=index))
        save_image_set(folder / name / "validation.safetensors", image_set(patients=9, seed=100 + index))
    return folder


def parameters(repository, **changes):
    """params.yaml made small; `changes` maps section__key to a value."""
    raw = load_params(repository / "params.yaml").model_dump(mode="json")
    settings = {
        "preprocess__pixels": 16,
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
        "privacy__sampling_rate": 0.25,
        "privacy__delta": 1e-3,
        "privacy__site_population": 20,
        "privacy__local_steps": 1,
        **changes,
    }
    for key, value in settings.items():
        section, name = key.split("__")
        raw[section][name] = value
    return parse_params(raw)


class InProcessChannel:
    """Real sites, called directly; `tamper` may change what one site is asked or answers."""

    def __init__(self, sites, tamper=None):
        self.sites, self.tamper, self.asked, self.received = sites, tamper, [], 0

    def ask(self, requests, *, deadline_s):
        received = {}
        for name, request in requests.items():
            if self.tamper is not None:
                request = self.tamper(name, request)
            request = m.decode_request(m.encode(request))
            self.asked.append((name, request))
            try:
                response = self.sites[name].answer(request)
            except PrimiaError as error:
                response = refusal_of(error)
            raw = m.encode(response)
            self.received += len(raw)
            received[name] = m.decode_response(raw)
        return Answers(received=received, failed={})

    def restart(self, name):
        raise AssertionError(f"{name} failed")

    def bytes_received(self):
        return self.received


def make_sites(folder, state, names=NAMES, **options):
    return {name: Site(name=name, folder=folder / name, state=state / "sites" / name, **options) for name in names}


@functools.cache
def calibrated(privacy, rounds):
    """The calibration takes seconds, and many tests share its outcome."""
    params = parameters(Path(__file__).resolve().parents[2], federation__rounds=rounds)
    return privacy_plan(params.model_copy(update={"privacy": privacy}))


def make_coordinator(params, channel, state, *, on_round=None, on_result=None):
    names = params.preprocess.hospitals
    described = exchange(channel, dict.fromkeys(names, m.Describe()), m.Description, step="start", deadline_s=60)
    privacy = calibrated(params.privacy, params.federation.rounds)
    plan, folder = open_run(state / "federation", draft_plan(params, described, privacy=privacy))
    return Coordinator(
        plan,
        channel=channel,
        folder=folder,
        deadline_s=params.federation.deadline_s,
        on_round=on_round,
        on_result=on_result,
    )
