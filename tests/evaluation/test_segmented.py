import csv
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from primia.config import Evaluation, Volume
from primia.data.image_set import ImageSet
from primia.errors import DataError
from primia.evaluation.evaluate import evaluate
from primia.evaluation.pictures import PICTURES
from primia.models.networks import Network
from primia.models.overlap import patient_dice
from primia.models.released import ReleasedModel
from primia.report.mask_plots import draw_dice

CLASSES = ("background", "anterior", "posterior")
SETTINGS = Evaluation(bootstrap=200, seed=1)
SPACING = (1.0, 1.0, 3.0)


def model_that_reads_grey_levels(volume=None):
    """Below a quarter is background, above three quarters the second structure; what it marks, a test decides."""
    deep = volume is not None and volume.depth is not None
    reader = nn.Conv3d(1, 3, 1) if deep else nn.Conv2d(1, 3, 1)
    with torch.no_grad():
        reader.weight.copy_(torch.tensor([-40.0, 0.0, 40.0]).view_as(reader.weight))
        reader.bias.copy_(torch.tensor([10.0, 0.0, -30.0]))
    network = Network(front=nn.Identity(), head=nn.Sequential(reader))
    return ReleasedModel(
        network=network,
        architecture="unet",
        classes=CLASSES,
        pixels=24,
        volume=volume,
        mean=0.0,
        std=1.0,
        round=3,
    )


def slices(patients=6, of_each=5, wrong=0.0, seed=1):
    """Discs of both structures in every slice; a share of the pixels of each image is not what the mask says."""
    random = torch.Generator().manual_seed(seed)
    n, grid = patients * of_each, torch.arange(24)
    rows, columns = torch.meshgrid(grid, grid, indexing="ij")
    masks = torch.zeros(n, 24, 24, dtype=torch.uint8)
    for mask in masks:
        for structure, (x, y) in enumerate(torch.randint(6, 18, (2, 2), generator=random).tolist(), start=1):
            mask[(rows - x) ** 2 + (columns - y) ** 2 < 16] = structure
    shown = torch.where(torch.rand(masks.shape, generator=random) < wrong, 2 - masks, masks)
    return ImageSet(
        images=(shown / 2).half()[:, None],
        labels=masks,
        patients=torch.arange(n) // of_each,
        image_ids=tuple(f"p{i // of_each}/{i % of_each}" for i in range(n)),
        patient_ids=tuple(f"p{p}" for p in range(patients)),
        classes=CLASSES,
    )


def of_volume(shown, masks, *, depth):
    """One patient whose volume (x, y, z) shows `shown`: slice by slice, or as one image with `depth`."""
    stack = (lambda volume: volume[None]) if depth else (lambda volume: volume.movedim(-1, 0))
    images = stack((shown / 2).half())[:, None]
    return ImageSet(
        images=images,
        labels=stack(masks),
        patients=torch.zeros(len(images), dtype=torch.int64),
        image_ids=tuple(f"p/{number}" for number in range(len(images))),
        patient_ids=("p",),
        classes=CLASSES,
    )


def judged(test, volume=None, settings=SETTINGS, synthetic=True):
    return evaluate(model_that_reads_grey_levels(volume), test, settings=settings, synthetic=synthetic)


def test_a_model_that_is_right_everywhere_is_perfect():
    figures = judged(slices(), Volume(spacing=SPACING)).figures
    assert figures["dice"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert figures["dice_by_structure"]["anterior"] == {"value": 1.0, "low": 1.0, "high": 1.0, "patients": 6}
    assert figures["hd95"]["value"] == 0.0 and figures["surface_dice"]["value"] == 1.0
    assert (figures["unit"], figures["images"], figures["patients"]) == ("mm", 30, 6)


def test_dice_of_each_hospital_is_that_of_its_patients_alone(tmp_path):
    names = ("north", "hill", "north", "north", "", "hill")
    test = dataclasses.replace(slices(wrong=0.2), hospitals=names)
    result = judged(test, Volume(spacing=SPACING))
    result.write(tmp_path / "evaluation")
    found = result.figures["by_hospital"]
    assert list(found) == ["hill", "north"]
    assert (found["hill"]["patients"], found["north"]["patients"]) == (2, 3)
    of_hill = result.dice[[1, 5]]
    assert found["hill"]["dice"]["value"] == pytest.approx(of_hill.mean())
    assert found["hill"]["dice_by_structure"]["posterior"]["value"] == pytest.approx(of_hill[:, 1].mean())
    assert found["north"]["dice"]["low"] is None, "three patients have no interval worth the name"
    with (tmp_path / "evaluation" / "patients.csv").open() as stream:
        assert [row["hospital"] for row in csv.DictReader(stream)][::2] == list(names)
    assert judged(slices()).figures["by_hospital"] == {}


def test_dice_is_hard_and_of_whole_patients_with_an_interval_around_it():
    test = slices(wrong=0.2)
    result = judged(test, Volume(spacing=SPACING))
    predicted = model_that_reads_grey_levels().logits(test.images).argmax(dim=1)
    exact = patient_dice(predicted, test.labels, test.patients, classes=3)
    np.testing.assert_allclose(result.answers, exact)
    figures = result.figures
    assert figures["dice"]["value"] == pytest.approx(float(exact.mean()))
    assert figures["dice"]["low"] < figures["dice"]["value"] < figures["dice"]["high"]
    assert figures["dice_by_structure"]["anterior"]["value"] == pytest.approx(float(exact[:, 0].mean()))
    assert figures["worst_dice"] == pytest.approx(float(exact.min()))
    assert figures["worst"][0]["dice"] == pytest.approx(float(exact.mean(dim=1).min()))
    least = figures["worst_structure"]
    assert least["value"] == pytest.approx(float(exact.mean(dim=0).min()))
    assert least == {"name": least["name"], **figures["dice_by_structure"][least["name"]]}


@pytest.mark.parametrize(("axis", "length"), [(0, 0.7), (1, 0.9), (2, 3.0)])
@pytest.mark.parametrize("depth", [None, 8])
def test_distances_are_in_millimetres_along_every_axis(axis, length, depth):
    masks = torch.zeros(24, 24, 8, dtype=torch.uint8)  # x, y, z
    masks[4:16, 5:15, 2:6] = 1
    masks[18:21, 5:15, 2:6] = 2
    test = of_volume(masks.roll(1, dims=axis), masks, depth=depth)
    figures = judged(test, Volume(spacing=(0.7, 0.9, 3.0), depth=depth)).figures
    assert figures["hd95"]["value"] == pytest.approx(length)


def test_a_volume_is_judged_like_its_slices(tmp_path):
    random = torch.Generator().manual_seed(3)
    masks = torch.randint(0, 3, (24, 24, 8), generator=random, dtype=torch.uint8)
    shown = torch.where(torch.rand(masks.shape, generator=random) < 0.3, 2 - masks, masks)
    flat, deep = (
        judged(of_volume(shown, masks, depth=depth), Volume(spacing=SPACING, depth=depth)) for depth in (None, 8)
    )
    np.testing.assert_allclose(flat.dice, deep.dice)
    np.testing.assert_allclose(flat.hd95, deep.hd95)
    np.testing.assert_allclose(flat.surface_dice, deep.surface_dice)
    for one, other in zip(flat.shown, deep.shown, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.prediction, other.prediction)
        assert torch.equal(one.truth, other.truth) and torch.equal(one.doubt, other.doubt)


def test_single_pictures_of_a_patient_are_judged_one_by_one():
    figures = judged(slices(wrong=0.05)).figures
    assert figures["unit"] == "pixels" and 0 < figures["hd95"]["value"] < 24


def test_the_files_hold_every_patient_and_pictures_of_the_worst_and_the_best(tmp_path):
    result = judged(slices(wrong=0.2), Volume(spacing=SPACING))
    result.write(tmp_path / "evaluation")
    assert json.loads((tmp_path / "evaluation/metrics.json").read_text()) == result.figures
    with (tmp_path / "evaluation/patients.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["patient"], row["structure"]) for row in rows[:2]] == [("0", "anterior"), ("0", "posterior")]
    assert len(rows) == 12 and float(rows[0]["dice"]) == pytest.approx(result.answers[0, 0], abs=1e-6)
    with safe_open(tmp_path / "evaluation/pictures.safetensors", framework="pt") as stream:
        shown = json.loads(stream.metadata()["shown"])
        assert [each["name"] for each in shown] == ["worst", "second worst", "median", "best"]
        assert shown[0]["dice"] <= shown[1]["dice"] <= shown[2]["dice"] <= shown[3]["dice"]
        assert stream.get_tensor("0.image").shape == stream.get_tensor("0.truth").shape == (24, 24)


@pytest.mark.parametrize(("agreed", "uncovered"), [(False, []), (True, [PICTURES])])
def test_images_of_real_patients_are_kept_only_if_they_agreed_and_are_said_to_be_published(tmp_path, agreed, uncovered):
    settings = SETTINGS.model_copy(update={"pictures": agreed})
    result = judged(slices(wrong=0.2), Volume(spacing=SPACING), settings, synthetic=False)
    result.write(tmp_path / "evaluation")
    with safe_open(tmp_path / "evaluation/pictures.safetensors", framework="pt") as stream:
        assert len(list(stream.keys())) == (16 if agreed else 0)
        assert len(json.loads(stream.metadata()["shown"])) == (4 if agreed else 0)
    assert result.figures["uncovered"] == uncovered
    assert judged(slices(wrong=0.2)).figures["uncovered"] == []


def test_a_structure_that_a_patient_has_not_and_the_model_does_not_mark_counts_for_nothing(tmp_path):
    test = slices(wrong=0.0)
    labels = torch.where((test.patients[:, None, None] < 2) & (test.labels == 2), 0, test.labels)
    shown = (labels / 2).half()[:, None]
    shown[test.patients == 1] = 0.0  # of whom nothing is found; the mask is empty but for one structure
    test = dataclasses.replace(test, images=shown, labels=labels, hospitals=("hill", "hill", *["north"] * 4))
    result = judged(test, Volume(spacing=SPACING))
    assert np.isnan(result.dice[:2, 1]).all() and np.isnan(result.hd95[:2, 1]).all()
    assert result.dice[:2, 0].tolist() == [1.0, 0.0]
    figures = result.figures
    assert figures["dice_by_structure"]["posterior"] == {"value": 1.0, "low": None, "high": None, "patients": 4}
    assert figures["dice"]["low"] is None
    assert figures["worst_structure"]["name"] == "posterior"  # the gate asks for an end that is not there
    assert figures["dice"]["value"] == pytest.approx((1.0 + 5 / 6) / 2)
    assert figures["by_hospital"]["hill"]["dice"]["value"] == 0.5
    assert figures["by_hospital"]["hill"]["dice_by_structure"]["posterior"]["value"] is None
    assert figures["worst"][0] == {"patient": 1, "dice": 0.0}
    result.write(tmp_path / "evaluation")
    with (tmp_path / "evaluation/patients.csv").open(newline="") as stream:
        draw_dice(tmp_path / "dice.png", list(csv.DictReader(stream)))
    assert (tmp_path / "dice.png").stat().st_size > 1000


def test_slices_of_volumes_are_shown_with_the_front_on_top_and_the_right_on_the_left(tmp_path):
    test = slices(patients=1, of_each=1)
    labels = torch.zeros_like(test.labels)
    labels[0, 20, 22] = 1  # far to the right and to the front
    labels[0, 2, 2] = 2
    result = judged(dataclasses.replace(test, labels=labels), Volume(spacing=SPACING))
    result.write(tmp_path / "evaluation")
    with safe_open(tmp_path / "evaluation/pictures.safetensors", framework="pt") as stream:
        truth = stream.get_tensor("0.truth")
    assert (truth == 1).nonzero().tolist() == [[1, 3]]


def test_patients_of_whom_only_the_model_says_that_they_have_a_structure_do_not_count_for_its_interval():
    test = slices()
    labels = torch.where((test.patients[:, None, None] > 0) & (test.labels == 2), 0, test.labels)
    found = judged(dataclasses.replace(test, labels=labels), Volume(spacing=SPACING)).figures["dice_by_structure"]
    assert found["posterior"] == {"value": pytest.approx(1 / 6), "low": None, "high": None, "patients": 1}
    assert found["anterior"]["patients"] == 6 and found["anterior"]["low"] == 1.0


def test_the_worst_structure_is_the_one_whose_interval_reaches_lowest():
    test = slices()
    shown = test.images.clone()
    shown[:25][(test.labels == 1)[:25, None] & (torch.arange(24) > 11)] = 0.0  # a part of most anterior discs is missed
    shown[25:][(test.labels == 2)[25:, None]] = 0.0  # and of one patient the posterior part
    figures = judged(dataclasses.replace(test, images=shown), Volume(spacing=SPACING)).figures
    anterior, posterior = figures["dice_by_structure"].values()
    assert anterior["value"] < posterior["value"] and anterior["low"] > posterior["low"]
    assert figures["worst_structure"] == {"name": "posterior", **posterior}


def test_distances_are_judged_in_millimetres_with_the_tolerance_of_the_settings():
    test = slices(patients=5, of_each=4)
    moved = dataclasses.replace(test, images=test.images.roll(1, dims=2))

    def surface(spacing, tolerance):
        settings = SETTINGS.model_copy(update={"tolerance": tolerance})
        return judged(moved, Volume(spacing=spacing), settings).figures["surface_dice"]["value"]

    assert surface((2.0, 2.0, 9.0), 1.9) < 0.9 < surface((2.0, 2.0, 9.0), 2.1) == 1.0
    assert surface((4.0, 2.0, 9.0), 2.1) < 0.9


def test_a_test_set_without_a_structure_is_refused():
    test = slices()
    with pytest.raises(DataError, match="No test patient has a pixel of posterior"):
        judged(dataclasses.replace(test, labels=test.labels.clamp(max=1)))


def test_images_prepared_for_another_task_are_refused():
    test = slices()
    classified = dataclasses.replace(test, labels=torch.zeros(len(test), dtype=torch.int64))
    with pytest.raises(DataError, match="prepared for another task or depth"):
        judged(classified)


def test_a_model_that_diverged_is_refused():
    model = model_that_reads_grey_levels()
    with torch.no_grad():
        model.network.head[0].bias.fill_(float("nan"))
    with pytest.raises(DataError, match="training diverged"):
        evaluate(model, slices(), settings=SETTINGS)
