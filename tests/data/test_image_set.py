import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.data.image_set import ImageSet, load_image_set, save_image_set
from primia.errors import DataError


def image_set(patients: list[int], *, pixels: int = 4) -> ImageSet:
    count = len(patients)
    return ImageSet(
        images=torch.rand((count, 1, pixels, pixels), generator=torch.Generator().manual_seed(1)).half(),
        labels=torch.arange(count) % 2,
        patients=torch.tensor(patients, dtype=torch.int64),
        image_ids=tuple(f"ü/{i}.png" for i in range(count)),
        patient_ids=tuple(f"p{i}" for i in range(max(patients, default=0) + 1)),
        classes=("normal", "viral"),
    )


def test_a_set_comes_back_from_disk_as_it_was(tmp_path):
    written = image_set([0, 0, 2, 1])
    save_image_set(tmp_path / "deep" / "train.safetensors", written)
    read = load_image_set(tmp_path / "deep" / "train.safetensors")
    assert torch.equal(read.images, written.images) and read.images.dtype == torch.float16
    assert torch.equal(read.labels, written.labels) and torch.equal(read.patients, written.patients)
    assert (read.image_ids, read.patient_ids, read.classes) == (
        written.image_ids,
        written.patient_ids,
        written.classes,
    )
    assert len(read) == 4 and read.pixels == 4


def test_the_hospital_of_each_patient_comes_back_and_goes_along(tmp_path):
    written = dataclasses.replace(image_set([0, 0, 2, 1]), hospitals=("north", "hill", "river"))
    save_image_set(tmp_path / "test.safetensors", written)
    read = load_image_set(tmp_path / "test.safetensors")
    assert read.hospitals == ("north", "hill", "river")
    assert read.subset(torch.tensor([3, 2])).hospitals == ("hill", "river")
    with pytest.raises(AssertionError):
        dataclasses.replace(written, hospitals=("north",))


@pytest.mark.parametrize("depth", [None, 3])
def test_a_set_with_masks_comes_back_and_knows_its_shape(tmp_path, depth):
    spatial = (4, 4) if depth is None else (4, 4, depth)
    whole = image_set([0, 0, 1])
    written = ImageSet(
        images=torch.rand((3, 1, *spatial)).half(),
        labels=torch.arange(3 * math.prod(spatial)).view(3, *spatial).remainder(2).to(torch.uint8),
        patients=whole.patients,
        image_ids=whole.image_ids,
        patient_ids=whole.patient_ids,
        classes=whole.classes,
    )
    save_image_set(tmp_path / "a", written)
    read = load_image_set(tmp_path / "a")
    assert torch.equal(read.labels, written.labels) and read.labels.dtype == torch.uint8
    assert (read.masks, read.pixels, read.depth) == (True, 4, depth)
    assert (whole.masks, whole.depth) == (False, None)
    part = read.subset(torch.tensor([False, False, True]))
    assert torch.equal(part.labels, written.labels[2:]) and part.patient_ids == ("p1",)


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros((2, 4, 5), dtype=torch.uint8),
        torch.full((2, 4, 4), 2, dtype=torch.uint8),
        torch.zeros((2, 4, 4), dtype=torch.int64),
        torch.zeros(2),
    ],
)
def test_masks_of_another_shape_type_or_class_are_no_set(labels):
    whole = image_set([0, 1])
    with pytest.raises(AssertionError):
        ImageSet(whole.images, labels, whole.patients, whole.image_ids, whole.patient_ids, whole.classes)


def test_equal_sets_give_equal_bytes(tmp_path):
    for name in "ab":
        save_image_set(tmp_path / name, image_set([0, 1]))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@settings(deadline=None)
@given(patients=st.lists(st.integers(0, 5), min_size=1, max_size=12), data=st.data())
def test_a_subset_keeps_each_images_patient_and_no_patient_without_images(patients, data):
    whole = image_set(patients)
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(patients), max_size=len(patients))))
    part = whole.subset(mask)
    chosen = mask.nonzero().flatten().tolist()
    assert part.image_ids == tuple(whole.image_ids[i] for i in chosen)
    named = [part.patient_ids[i] for i in part.patients.tolist()]
    assert named == [whole.patient_ids[patients[i]] for i in chosen]
    assert set(part.patient_ids) == set(named)
    assert torch.equal(part.images, whole.images[mask])


def test_a_subset_by_index_follows_the_order_of_the_index():
    part = image_set([3, 1, 2]).subset(torch.tensor([2, 0]))
    assert part.image_ids == ("ü/2.png", "ü/0.png")
    assert [part.patient_ids[i] for i in part.patients.tolist()] == ["p2", "p3"]


def test_a_missing_file_names_the_stage_that_writes_it(tmp_path):
    with pytest.raises(DataError, match=r"train\.safetensors is missing; .*dvc repro preprocess"):
        load_image_set(tmp_path / "train.safetensors")


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_a_file_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "train.safetensors"
    save_image_set(path, image_set([0, 1]))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="cut short or no image set"):
        load_image_set(path)


def test_safetensors_of_something_else_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(3)}, tmp_path / "train.safetensors")
    with pytest.raises(DataError, match="no image set"):
        load_image_set(tmp_path / "train.safetensors")
