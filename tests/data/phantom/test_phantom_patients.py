from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primia.data.phantom import PHANTOM_CLASSES, generate_phantoms
from primia.data.phantom.scanner import scanner_of
from primia.errors import DataError

HOSPITALS = ("north", "river", "hill")


def phantoms(*, patients=18, pixels=48, hospitals=HOSPITALS, seed=3):
    return list(generate_phantoms(patients=patients, pixels=pixels, hospitals=hospitals, seed=seed))


def same(one, other):
    return (
        (one.image_id, one.patient_id, one.label, one.hospital)
        == (other.image_id, other.patient_id, other.label, other.hospital)
        and one.pixels.tobytes() == other.pixels.tobytes()
        and one.lung_mask.tobytes() == other.lung_mask.tobytes()
    )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), few=st.integers(1, 4), more=st.integers(0, 5))
def test_a_patient_does_not_depend_on_how_many_follow(seed, few, more):
    short = phantoms(patients=few, pixels=32, seed=seed)
    long = phantoms(patients=few + more, pixels=32, seed=seed)
    assert all(same(one, other) for one, other in zip(short, long, strict=False))
    assert len({image.patient_id for image in long}) == few + more


def test_another_seed_gives_other_images():
    assert not any(
        np.array_equal(one.pixels, other.pixels) for one, other in zip(phantoms(seed=1), phantoms(seed=2), strict=False)
    )


def test_images_use_the_full_range_and_differ_from_each_other():
    images = phantoms()
    for image in images:
        assert image.pixels.dtype == np.uint8 and image.pixels.shape == (48, 48)
        assert image.pixels.min() <= 40 and image.pixels.max() == 255
        assert len(np.unique(image.pixels)) > 100
    assert len({image.pixels.tobytes() for image in images}) == len(images)


def test_ids_name_the_patient_and_the_image():
    by_patient = Counter()
    for image in phantoms(patients=60, pixels=32):
        assert image.image_id == f"{image.patient_id}-{by_patient[image.patient_id]}"
        by_patient[image.patient_id] += 1
    assert list(by_patient) == [f"phantom-{number:05d}" for number in range(60)]
    assert set(by_patient.values()) == {1, 2, 3, 4}


def test_a_patient_has_one_class_and_one_hospital():
    facts = {(image.patient_id, image.label, image.hospital) for image in phantoms(patients=40, pixels=32)}
    assert len(facts) == 40


def test_every_pair_of_hospital_and_class_is_equally_frequent():
    facts = {(image.patient_id, image.label, image.hospital) for image in phantoms(patients=45, pixels=32)}
    pairs = Counter((label, hospital) for _, label, hospital in facts)
    assert set(pairs) == {(label, hospital) for label in PHANTOM_CLASSES for hospital in HOSPITALS}
    assert set(pairs.values()) == {5}


def test_images_of_one_patient_resemble_each_other_more_than_strangers():
    images = phantoms(patients=60, pixels=64)
    flat = np.stack([image.pixels.ravel().astype(float) for image in images])
    alike = np.corrcoef(flat)
    owner = np.array([image.patient_id for image in images])
    place = np.array([image.hospital for image in images])
    own = (owner[:, None] == owner) & ~np.eye(len(images), dtype=bool)
    others = (owner[:, None] != owner) & (place[:, None] == place)
    assert alike[own].mean() > alike[others].mean() + 0.05


def test_the_lung_mask_covers_two_dark_fields():
    for image in islice(phantoms(patients=30, pixels=64), 30):
        share = image.lung_mask.mean()
        assert 0.10 < share < 0.45
        # Not even consolidation makes a lung as dense as the upper abdomen and mediastinum between the lungs.
        middle = image.pixels[28:60, 28:36]
        if image.label == "normal":
            assert image.pixels[image.lung_mask].mean() < middle.mean() - 25
        columns = np.flatnonzero(image.lung_mask.any(axis=0))
        assert columns.min() < 20 and columns.max() > 44


def test_the_same_patient_at_another_size_is_the_same_patient():
    small, large = phantoms(patients=9, pixels=48), phantoms(patients=9, pixels=96)
    for one, other in zip(small, large, strict=True):
        halved = other.pixels.reshape(48, 2, 48, 2).mean(axis=(1, 3))
        assert one.image_id == other.image_id and one.label == other.label
        assert np.corrcoef(one.pixels.ravel(), halved.ravel())[0, 1] > 0.97


def test_a_scanner_follows_from_the_name_alone():
    assert scanner_of("north") == scanner_of("north")
    assert len({scanner_of(name).contrast for name in HOSPITALS}) == len(HOSPITALS)
    alone = phantoms(patients=6, hospitals=("river",))
    assert {image.hospital for image in alone} == {"river"}


@pytest.mark.parametrize("hospitals", [(), ("north", "north")])
def test_hospitals_without_names_of_their_own_are_refused(hospitals):
    with pytest.raises(DataError, match="each once"):
        generate_phantoms(patients=3, pixels=48, hospitals=hospitals, seed=1)


def test_images_too_small_for_a_chest_are_refused():
    with pytest.raises(DataError, match="32 pixels"):
        generate_phantoms(patients=3, pixels=16, hospitals=HOSPITALS, seed=1)
