from dataclasses import replace

import numpy as np
import pytest

from primia.errors import FederationError
from primia.federation.checkpoint import GlobalModel, Progress, RoundRecord, Trained, absent_hospitals, open_run
from primia.federation.drafting import draft_plan
from primia.federation.messages import Description
from primia.federation.server_optimiser import ServerState
from primia.federation.summed_statistics import PooledStatistics

RECORD = RoundRecord(
    round=1,
    validation_score=0.5,
    validation_accuracy=0.6,
    validation_loss=1.1,
    epsilon=0.0,
    clipped_fraction=0.01,
    seconds=1.5,
    bytes_up_per_site=100,
    participants=3,
)


def progress(**changes):
    random = np.random.default_rng(1)

    def model(step):
        return GlobalModel(
            round=step,
            head=random.normal(size=5).astype(np.float32),
            average=random.normal(size=5),
            server=ServerState(step=step, first=random.normal(size=5), second=random.normal(size=5)),
        )

    fields = {
        "statistics": PooledStatistics(
            images=30, mean=0.1, std=0.2, counted=("hill", "north", "river"), class_weights=(1.0, 0.5)
        ),
        "model": model(2),
        "before": model(1),
        "trained": 2,
        "latest": Trained(participants=("hill", "north", "river"), clipped_fraction=0.25, seconds=3.5, bytes_up=7),
        "undone": 1,
        "cohort": ("hill", "north", "river"),
        "records": (RECORD,),
    }
    fields |= {"released": fields["before"].released, "released_round": 1}
    return Progress(**fields | changes)


@pytest.fixture
def draft(params_with):
    params = params_with()

    def make(data="0" * 64, **changes):
        described = {
            name: Description(name=name, identity=bytes(32), data=data, classes=params.ingest.classes, pixels=16)
            for name in params.preprocess.hospitals
        }
        return draft_plan(params_with(**changes), described, privacy=None)

    return make


def bits(model):
    vectors = (model.head, model.average, model.server.first, model.server.second)
    return [(vector.dtype, vector.tobytes()) for vector in vectors], model.server.step


def files(folder):
    return sorted(path.name for path in folder.glob("weights-*"))


@pytest.mark.parametrize("changes", [{}, {"before": None, "latest": None, "undone": 0, "cohort": ()}])
def test_progress_comes_back_to_the_bit(tmp_path, draft, changes):
    _, folder = open_run(tmp_path, draft())
    assert folder.load() is None
    expected = progress(**changes)
    folder.save(progress())  # the model of round 1 is released
    folder.save(expected)
    loaded = open_run(tmp_path, draft())[1].load()
    assert bits(loaded.model) == bits(expected.model)
    assert (loaded.before is None) == (expected.before is None)
    if expected.before is not None:
        assert bits(loaded.before) == bits(expected.before)
    assert loaded.released.tobytes() == expected.released.tobytes()
    for name in ("statistics", "released_round", "trained", "latest", "undone", "cohort", "records"):
        assert getattr(loaded, name) == getattr(expected, name)


def test_an_optimiser_without_memory_is_saved_too(tmp_path, draft):
    _, folder = open_run(tmp_path, draft())
    state = ServerState(step=3, first=np.zeros(0), second=np.zeros(0))
    model = GlobalModel(round=3, head=np.ones(5, np.float32), average=np.ones(5), server=state)
    folder.save(progress(model=model))
    assert folder.load().model.server.step == 3


def test_a_model_is_written_once_and_removed_when_nothing_names_it(tmp_path, draft):
    plan, folder = open_run(tmp_path, draft())
    first = progress()
    folder.save(first)
    place = tmp_path / plan.run
    assert files(place) == ["weights-1.safetensors", "weights-2.safetensors"]
    written = (place / "weights-2.safetensors").stat().st_ino
    folder.save(replace(first, before=None, released=first.model.released, released_round=2))
    assert files(place) == ["weights-2.safetensors"]
    assert (place / "weights-2.safetensors").stat().st_ino == written


def test_a_model_that_a_killed_process_left_is_not_taken_for_the_new_one(tmp_path, draft):
    plan, folder = open_run(tmp_path, draft())
    first = progress(before=None)
    first = replace(first, released=first.model.released, released_round=2)
    folder.save(first)
    (tmp_path / plan.run / "weights-3.safetensors").write_bytes(b"of a process that died before it named it")
    _, resumed = open_run(tmp_path, draft())
    resumed.load()
    third = replace(first, model=replace(first.model, round=3, head=np.ones(5, np.float32)))
    resumed.save(third)
    assert bits(open_run(tmp_path, draft())[1].load().model) == bits(third.model)


@pytest.mark.parametrize("name", ["progress.json", "weights-1.safetensors", "weights-2.safetensors"])
def test_a_damaged_checkpoint_says_how_to_start_anew(tmp_path, draft, name):
    _, folder = open_run(tmp_path, draft())
    folder.save(progress())
    path = tmp_path / folder.run / name
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FederationError, match="start the federation anew"):
        folder.load()
    path.unlink() if name != "progress.json" else path.write_text("[]")
    with pytest.raises(FederationError, match="start the federation anew"):
        folder.load()


def test_an_attempt_is_never_given_out_twice(tmp_path, draft):
    plan, folder = open_run(tmp_path, draft())
    given = [folder.next_session("train", 1) for _ in range(2)]
    _, reopened = open_run(tmp_path, draft())
    given += [
        reopened.next_session("train", 1),
        reopened.next_session("evaluate", 1),
        reopened.next_session("train", 2),
    ]
    assert [(s.purpose, s.round, s.attempt) for s in given] == [
        ("train", 1, 1),
        ("train", 1, 2),
        ("train", 1, 3),
        ("evaluate", 1, 1),
        ("train", 2, 1),
    ]
    assert {s.run for s in given} == {plan.run}


def test_an_unfinished_run_goes_on_and_a_finished_one_does_not(tmp_path, draft):
    first, folder = open_run(tmp_path, draft())
    assert open_run(tmp_path, draft())[0] == first
    folder.save(progress())
    folder.finish((RECORD,))
    second, _ = open_run(tmp_path, draft())
    assert second.run != first.run
    assert second.fingerprint() == first.fingerprint()
    assert not list((tmp_path / first.run).glob("progress.json")) and not files(tmp_path / first.run)


def test_other_parameters_or_other_images_are_another_run(tmp_path, draft):
    runs = {
        open_run(tmp_path, plan)[0].run
        for plan in (draft(), draft(training__seed=2), draft(federation__rounds=4), draft(data="1" * 64))
    }
    assert len(runs) == 4
    assert open_run(tmp_path, draft(federation__deadline_s=5.0))[0].run in runs  # no part of the result


def test_an_unfinished_run_vouches_for_a_hospital_that_is_away(tmp_path, draft):
    plan, folder = open_run(tmp_path, draft())
    present = {name: hospital for name, hospital in plan.hospitals.items() if name != "hill"}
    assert absent_hospitals(tmp_path, present) == {"hill": plan.hospitals["hill"]}
    changed = {name: hospital.model_copy(update={"data": "1" * 64}) for name, hospital in present.items()}
    assert absent_hospitals(tmp_path, changed) == {}
    folder.save(progress())
    folder.finish((RECORD,))
    assert absent_hospitals(tmp_path, present) == {}
