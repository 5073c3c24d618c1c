import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from primia.config import Evaluation
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.evaluation import metrics
from primia.evaluation.evaluate import evaluate
from primia.models.networks import Network
from primia.models.released import ReleasedModel

CLASSES = ("normal", "bacterial", "viral")
SETTINGS = Evaluation(bootstrap=200, seed=1)


def model_that_reads_three_pixels(classes=CLASSES):
    """Its logits are the first three pixels of an image, so that a test decides what it answers."""
    linear = nn.Linear(64, 3)
    with torch.no_grad():
        linear.weight.copy_(8 * torch.eye(3, 64))
        linear.bias.zero_()
    network = Network(front=nn.Identity(), head=nn.Sequential(nn.Flatten(), linear))
    return ReleasedModel(network=network, architecture="convnet", classes=classes, pixels=8, mean=0.0, std=1.0, round=3)


def patients_set(images=60, seed=1):
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % 3
    scores = generator.random((images, 3)) + 0.5 * np.eye(3)[labels]
    pixels = np.zeros((images, 1, 8, 8), dtype=np.float16)
    pixels[:, 0, 0, :3] = scores / 1.5
    return ImageSet(
        images=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels),
        patients=torch.arange(images) // 2,
        image_ids=tuple(f"i{i}" for i in range(images)),
        patient_ids=tuple(f"p{p}" for p in range(images // 2)),
        classes=CLASSES,
    )


def rows(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_figures_are_those_of_the_models_answers():
    model, test = model_that_reads_three_pixels(), patients_set()
    figures = evaluate(model, test, settings=SETTINGS).figures
    probabilities, labels = model.probabilities(test.images).double().numpy(), test.labels.numpy()
    assert figures["mcc"]["value"] == pytest.approx(metrics.mcc(probabilities, labels))
    assert figures["auc"]["value"] == pytest.approx(metrics.auc(probabilities, labels, classes=CLASSES))
    assert (figures["images"], figures["patients"], figures["classes"]) == (60, 30, list(CLASSES))
    assert figures["images_per_class"] == {"normal": 20, "bacterial": 20, "viral": 20}
    assert figures["majority_accuracy"] == pytest.approx(1 / 3)
    assert figures["model_digest"] == model.digest()


def test_every_value_lies_in_its_interval_and_the_seed_fixes_it():
    figures = evaluate(model_that_reads_three_pixels(), patients_set(), settings=SETTINGS).figures
    for figure in (figures["mcc"], figures["accuracy"], figures["auc"], figures["brier"], *figures["recall"].values()):
        assert figure["low"] < figure["value"] < figure["high"]
    assert evaluate(model_that_reads_three_pixels(), patients_set(), settings=SETTINGS).figures == figures


def test_the_written_files_tell_the_same_story(tmp_path):
    result = evaluate(model_that_reads_three_pixels(), patients_set(), settings=SETTINGS)
    result.write(tmp_path / "evaluation")
    folder = tmp_path / "evaluation"
    assert json.loads((folder / "metrics.json").read_text()) == result.figures
    answers = rows(folder / "confusion.csv")
    right = np.mean([row["actual"] == row["predicted"] for row in answers])
    assert right == pytest.approx(result.figures["accuracy"]["value"])
    predictions = rows(folder / "predictions.csv")
    assert list(predictions[0]) == ["image", "patient", "actual", *CLASSES]
    assert [row["patient"] for row in predictions[:3]] == ["0", "0", "1"]
    assert [[float(row[c]) for c in CLASSES] for row in predictions] == pytest.approx(result.probabilities, abs=1e-8)
    assert sum(int(row["count"]) for row in rows(folder / "calibration.csv")) == 60
    assert {row["class"] for row in rows(folder / "roc.csv")} == set(CLASSES)


def test_another_class_order_is_refused():
    model = model_that_reads_three_pixels(classes=("bacterial", "normal", "viral"))
    with pytest.raises(DataError, match="order bacterial, normal, viral"):
        evaluate(model, patients_set(), settings=SETTINGS)


def test_other_pixels_are_refused():
    model = dataclasses.replace(model_that_reads_three_pixels(), pixels=16)
    with pytest.raises(DataError, match="have 8 pixels a side but the model was trained on 16"):
        evaluate(model, patients_set(), settings=SETTINGS)


def test_a_class_without_a_test_image_is_named():
    test = patients_set()
    with pytest.raises(DataError, match="none of class viral"):
        evaluate(model_that_reads_three_pixels(), test.subset(test.labels != 2), settings=SETTINGS)


def test_an_empty_test_set_is_refused():
    with pytest.raises(DataError, match="holds no image"):
        evaluate(
            model_that_reads_three_pixels(),
            patients_set().subset(torch.tensor([], dtype=torch.long)),
            settings=SETTINGS,
        )


def test_a_diverged_model_is_refused():
    model = model_that_reads_three_pixels()
    with torch.no_grad():
        model.network.head[1].weight.fill_(float("nan"))
    with pytest.raises(DataError, match="training diverged"):
        evaluate(model, patients_set(), settings=SETTINGS)
