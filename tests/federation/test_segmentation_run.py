"""A federation of hospitals that mark structures: the same protocol, sums of Dice in place of counts."""

import pytest
from federating import NAMES, federated, make_sites
from marked_images import marked, write_marked_sites

from primia.data.image_set import load_image_set
from primia.errors import PrimiaError
from primia.evaluation.evaluate import evaluate
from primia.federation import messages as m
from primia.models.released import load_model, save_model

SEGMENTING = {
    "task": "segmentation",
    "ingest__classes": ["background", "lungs"],
    "model__architecture": "jet",
    "training__loss": "dice_cross_entropy",
    "training__learning_rate": 0.5,
    "secure_aggregation__clip_range": 2.0,
    "federation__rounds": 4,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_marked_sites(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="module")
def finished(folders, params_with, tmp_path_factory):
    result, _ = federated(params_with(**SEGMENTING), folders, tmp_path_factory.mktemp("state"))
    return result


def test_the_federation_learns_to_mark(finished, folders):
    scores = [record.validation_score for record in finished.records]
    assert scores[-1] > max(0.8, scores[0])
    assert all(record.validation_accuracy is None and record.validation_loss > 0 for record in finished.records)


def test_the_released_dice_is_that_of_the_released_model_over_all_hospitals(finished, folders, params_with):
    held = [load_image_set(folders / name / "validation.safetensors") for name in NAMES]
    figures = [evaluate(finished.model, each, settings=params_with().evaluation).answers.mean() for each in held]
    released = finished.records[finished.model.round - 1]
    assert released.validation_score == pytest.approx(sum(figures) / 3, abs=1e-3)


def test_the_model_is_the_same_after_it_was_saved(finished, tmp_path):
    save_model(tmp_path / "model", finished.model)
    again = load_model(tmp_path / "model", classes=("background", "lungs"))
    assert again.segments and again.digest() == finished.model.digest()


@pytest.mark.parametrize("trust", ["local", "distributed"])
def test_privacy_is_spent_and_told_as_for_diagnoses(folders, params_with, tmp_path, trust):
    params = params_with(
        **SEGMENTING,
        privacy__enabled=True,
        privacy__trust=trust,
        privacy__clip_norm=0.1,
        privacy__learning_rate=5.0,
    )
    result, _ = federated(params, folders, tmp_path)
    assert 0 < result.epsilon <= 8.0
    assert all(record.validation_loss is None for record in result.records)


@pytest.mark.parametrize("private", [False, True])
def test_volumes_are_marked_as_images_are(params_with, tmp_path, private):
    folders = write_marked_sites(tmp_path / "hospitals", depth=8)
    params = params_with(
        **SEGMENTING,
        ingest__source="nifti",
        ingest__folder="anywhere",
        preprocess__dealing="iid",
        preprocess__volume={"spacing": (1.0, 1.0, 2.0), "depth": 8},
        privacy__enabled=private,
        privacy__clip_norm=0.1,
        privacy__learning_rate=5.0,
    )
    result, _ = federated(params, folders, tmp_path / "state")
    assert result.model.depth == 8 and result.model.volume.spacing == (1.0, 1.0, 2.0)
    judged = evaluate(result.model, marked(patients=9, seed=7, depth=8), settings=params.evaluation)
    assert judged.figures["unit"] == "mm"
    assert judged.dice.mean() > (0.3 if private else 0.8)


def test_hospitals_refuse_a_plan_of_another_task(folders, params_with, tmp_path):
    sites = make_sites(folders, tmp_path)
    described = sites["north"].answer(m.Describe())
    assert (described.classes, described.pixels, described.depth) == (("background", "lungs"), 16, None)
    with pytest.raises(PrimiaError, match=r"not what params\.yaml says"):
        federated(params_with(), folders, tmp_path / "again")
