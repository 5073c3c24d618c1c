"""A student is taught at the hospitals what a released model answers, which need not be what the labels say."""

import json
import os
import signal

import numpy as np
import pytest
import torch
from federating import CLASSES, CLEAR, NAMES, InProcessChannel, calibrated, image_set, make_site, make_sites

from primia.errors import ConfigError, ProtocolError, SiteRefusal
from primia.federation import messages as m
from primia.federation.floors import Floors
from primia.federation.plan import read_plan
from primia.federation.student import federate_student, teach
from primia.federation.student_work import student_network
from primia.federation.vectors import bytes_to_floats, words_to_bytes
from primia.federation.weights import head_vector, vector_digest
from primia.models.networks import build_network
from primia.models.released import ReleasedModel
from primia.training.plain import train_plain

SPREAD = 3.0
MEAN, STD = 0.4, 0.3


@pytest.fixture(scope="module")
def teacher():
    """A model that calls every class by the name of the next one."""
    network, images = build_network("convnet", classes=3, pixels=16, seed=5), image_set(patients=60, seed=50)
    train_plain(
        network.head,
        inputs=(images.images.float() - MEAN) / STD,
        labels=(images.labels + 1) % 3,
        epochs=15,
        batch_size=16,
        learning_rate=0.05,
        weight_decay=0.0,
        augment=False,
        precision="float32",
        seed=1,
    )
    return ReleasedModel(network.eval(), "convnet", CLASSES, 16, MEAN, STD, round=1)


@pytest.fixture(scope="module")
def student():
    network = student_network(pixels=16, classes=3)
    network.mean.fill_(0.4)
    network.std.fill_(0.25)
    network.largest.fill_(3.0)
    return network


@pytest.fixture(scope="module")
def params(params_with):
    def changed(**changes):
        settings = {"rounds": 3, "local_epochs": 2, "hospital_learning_rate": 0.05}
        return params_with(**{f"encryption__{name}": value for name, value in settings.items()} | changes)

    return changed


@pytest.fixture
def taught(site_folders, params, teacher, student, tmp_path):
    """Teach over a channel to real sites in this process; returns the network and the channel."""

    def run(state=tmp_path, *, channel=None, tamper=None, spoil=None, on_round=None, **changes):
        settings = params(**changes)
        floors = CLEAR if settings.secure_aggregation.scheme == "none" else None
        channel = channel or InProcessChannel(make_sites(site_folders, state, floors=floors), tamper, spoil)
        network = teach(
            settings,
            channel,
            teacher=teacher,
            student=student,
            spread=SPREAD,
            runs=state / "federation",
            on_round=on_round,
        )
        return network, channel

    return run


@pytest.fixture(scope="module")
def undisturbed(site_folders, params, teacher, student, tmp_path_factory):
    """The weights that a run ends with if nothing happens, its records, and the channel."""
    state, records = tmp_path_factory.mktemp("undisturbed"), []
    channel = InProcessChannel(make_sites(site_folders, state))
    network = teach(
        params(),
        channel,
        teacher=teacher,
        student=student,
        spread=SPREAD,
        runs=state / "federation",
        on_round=records.append,
    )
    return network, records, channel


def answers(network, images):
    with torch.no_grad():
        return network(network.inputs(images)).argmax(dim=1)


def plan_of(channel):
    joins = [request for _, request in channel.asked if isinstance(request, m.Join)]
    return read_plan(joins[0].plan), joins[0].teacher


def test_the_student_learns_the_teachers_answers_and_not_the_labels(undisturbed, student, teacher):
    network, records, _ = undisturbed
    fresh = image_set(patients=60, seed=999)
    told = teacher.logits(fresh.images).argmax(dim=1)
    assert (told == fresh.labels).float().mean() < 0.1
    assert (answers(student, fresh.images) == told).float().mean() < 0.6
    assert (answers(network, fresh.images) == told).float().mean() > 0.9
    assert [record.round for record in records] == [1, 2, 3]
    assert records[-1].validation_accuracy < 0.1  # by the labels at the hospitals


def test_the_first_weights_stay_as_they_were_and_no_range_of_them_is_claimed(undisturbed, student):
    network, _, channel = undisturbed
    plan, _ = plan_of(channel)
    assert vector_digest(head_vector(student)) == plan.student.start
    assert student.largest.tolist() == [3.0] * 3
    assert network.largest.tolist() == [0.0] * 3
    assert not network.training
    assert (network.mean, network.std) == (student.mean, student.std)


def test_every_round_starts_from_the_summed_weights_and_the_last_one_is_returned(undisturbed, student):
    network, _, channel = undisturbed
    asked = [request for _, request in channel.asked if isinstance(request, m.Train | m.Evaluate)]
    models = list(dict.fromkeys((request.session.round, request.model_digest) for request in asked))
    assert [round for round, _ in models] == [1, 1, 2, 2, 3, 3]
    assert models[0][1] == vector_digest(head_vector(student))
    assert [digest for _, digest in models[1::2]][:-1] == [digest for _, digest in models[2::2]]
    assert models[-1][1] == vector_digest(head_vector(network))
    assert {(request.mean, request.std) for request in asked} == {(float(student.mean), float(student.std))}


def test_masking_changes_no_bit_of_the_student(undisturbed, taught):
    network, channel = taught(secure_aggregation__scheme="none")
    np.testing.assert_array_equal(head_vector(network), head_vector(undisturbed[0]))
    assert not any(isinstance(request, m.AdvertiseKeys) for _, request in channel.asked)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("purpose", ["statistics", "train", "evaluate"])
def test_a_coordinator_killed_at_a_sum_resumes_to_the_identical_student(undisturbed, taught, purpose):
    for kind in (m.AdvertiseKeys, m.Unmask):

        def kill(name, request, kind=kind):
            place = (0 if purpose == "statistics" else 2, purpose)
            if isinstance(request, kind) and (request.session.round, request.session.purpose) == place:
                raise KilledError
            return request

        with pytest.raises(KilledError):
            taught(tamper=kill)
    network, channel = taught()
    np.testing.assert_array_equal(head_vector(network), head_vector(undisturbed[0]))
    assert all(request.teacher is not None for _, request in channel.asked if isinstance(request, m.Join))


def test_a_hospital_that_comes_back_is_given_the_teacher_again_and_changes_no_bit(undisturbed, taught):
    fell = []

    def fall(name, request, response):
        if name == "river" and isinstance(request, m.AdvertiseKeys) and request.session.round == 2 and not fell:
            fell.append(name)
            return "its process ended"
        return response

    network, channel = taught(spoil=fall)
    assert channel.restarted == ["river"]
    given = [request.teacher for name, request in channel.asked if isinstance(request, m.Join) and name == "river"]
    assert len(given) == 2
    assert given[0] == given[1]
    np.testing.assert_array_equal(head_vector(network), head_vector(undisturbed[0]))


def test_another_teacher_or_start_is_another_run(undisturbed):
    plan, _ = plan_of(undisturbed[2])
    for name in ("teacher", "start"):
        other = plan.model_copy(update={"student": plan.student.model_copy(update={name: "0" * 64})})
        assert other.fingerprint() != plan.fingerprint()
    assert json.loads(plan.canonical())["student"]["teacher"] == plan.student.teacher


@pytest.fixture
def north(undisturbed, site_folders, tmp_path):
    """A hospital of the undisturbed run, that plan, and its teacher's weights."""
    plan, weights = plan_of(undisturbed[2])
    state = undisturbed[2].sites["north"].made_of[1]
    return make_site(site_folders, state, "north"), plan, weights


def test_weights_that_are_not_the_teachers_of_the_plan_are_refused(north):
    site, plan, weights = north
    assert site.answer(m.Join(plan=plan.canonical(), teacher=weights)).plan == plan.digest()
    changed = bytes_to_floats(weights)
    changed[7] += np.float32(1e-3)
    for wrong in (words_to_bytes(changed), weights[:-4], b""):
        with pytest.raises(ProtocolError, match="do not match its digest or architecture"):
            site.answer(m.Join(plan=plan.canonical(), teacher=wrong))


def test_a_teacher_comes_with_a_student_and_with_nothing_else(north):
    site, plan, weights = north
    plain = plan.model_copy(update={"student": None, "run": "another-run"})
    for join in (m.Join(plan=plan.canonical()), m.Join(plan=plain.canonical(), teacher=weights)):
        with pytest.raises(ProtocolError, match="come with a plan that has a student"):
            site.answer(join)
    assert site.answer(m.Join(plan=plain.canonical())).plan == plain.digest()


def test_a_student_within_differential_privacy_is_refused(north, params):
    site, plan, weights = north
    private = params(privacy__enabled=True)
    privacy = calibrated(private.privacy, private.federation.rounds)
    wrong = plan.model_copy(update={"privacy": privacy, "weights": "equal", "run": "another-run"})
    with pytest.raises(SiteRefusal, match=r"promises differential privacy, but teaching draws no noise; distil"):
        site.answer(m.Join(plan=wrong.canonical(), teacher=weights))


def test_a_hospital_that_requires_privacy_teaches_no_student(north, site_folders):
    site, plan, weights = north
    careful = make_site(site_folders, site.made_of[1], "north", floors=Floors(require_privacy=True))
    with pytest.raises(SiteRefusal, match="trains without differential privacy, which require_privacy"):
        careful.answer(m.Join(plan=plan.canonical(), teacher=weights))


def test_what_cannot_be_taught_is_said_before_a_hospital_is_asked(params, teacher, student, tmp_path):
    def attempt(settings):
        federate_student(
            settings, teacher=teacher, student=student, spread=SPREAD, sites=tmp_path / "none", state=tmp_path / "state"
        )

    with pytest.raises(ConfigError, match=r"privacy.enabled is true, but a student .* distil it on phantoms"):
        attempt(params(privacy__enabled=True))
    with pytest.raises(ConfigError, match="knows 16-pixel images of normal, bacterial, viral, which is not"):
        attempt(params(preprocess__pixels=32))
    assert not (tmp_path / "state").exists()


@pytest.mark.system  # starts a process per hospital
def test_processes_teach_the_same_bits_though_one_is_killed(
    undisturbed, site_folders, params, teacher, student, tmp_path
):
    import psutil

    def harm(record):
        if record.round == 1:
            processes = [p for p in psutil.Process().children() if "primia.federation.site_process" in p.cmdline()]
            os.kill(processes[0].pid, signal.SIGKILL)

    network = federate_student(
        params(),
        teacher=teacher,
        student=student,
        spread=SPREAD,
        sites=site_folders,
        state=tmp_path,
        on_round=harm,
    )
    np.testing.assert_array_equal(head_vector(network), head_vector(undisturbed[0]))
    assert {path.name for path in (tmp_path / "sites").iterdir()} == set(NAMES)
