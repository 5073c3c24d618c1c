from collections import Counter

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primia.config import Preprocess
from primia.data.dealing import Patient, Place, deal, majority_class
from primia.errors import DataError

HOSPITALS = ("north", "river", "hill")
CLASSES = ("normal", "bacterial", "viral")


def settings(**changes) -> Preprocess:
    return Preprocess(**{"pixels": 16, "hospitals": HOSPITALS, "dealing": "iid", **changes})


def crowd(per_class: int, *, hospitals=HOSPITALS) -> list[Patient]:
    return [
        Patient(f"p{label}-{i}", label, hospitals[i % len(hospitals)]) for label in range(3) for i in range(per_class)
    ]


@st.composite
def crowds(draw) -> list[Patient]:
    labels = draw(st.lists(st.integers(0, 2), min_size=1, max_size=80))
    return [
        Patient(f"p{i}", label, draw(st.sampled_from(HOSPITALS)), draw(st.booleans())) for i, label in enumerate(labels)
    ]


@hypothesis.settings(deadline=None)  # a busy machine is no failure
@given(
    patients=crowds(),
    dealing=st.sampled_from(["natural", "iid", "dirichlet"]),
    seed=st.integers(0, 2**32 - 1),
    alpha=st.floats(0.01, 100),
    order=st.randoms(),
)
def test_every_patient_lands_exactly_once_or_the_reason_is_said(patients, dealing, seed, alpha, order):
    chosen = settings(dealing=dealing, seed=seed, dirichlet_alpha=alpha)
    try:
        places = deal(patients, chosen, classes=CLASSES)
    except DataError as error:
        assert "preprocess." in str(error)  # every refusal names a way out
        return
    assert set(places) == {patient.name for patient in patients}
    for patient in patients:
        place = places[patient.name]
        assert place in [Place("", "test"), *(Place(h, s) for h in HOSPITALS for s in ("train", "validation"))]
        if any(other.in_test for other in patients):
            assert (place.split == "test") == patient.in_test
        if dealing == "natural" and place.split != "test":
            assert place.hospital == patient.hospital
    shuffled = list(patients)
    order.shuffle(shuffled)
    assert deal(shuffled, chosen, classes=CLASSES) == places


@hypothesis.settings(deadline=None)  # a busy machine is no failure
@given(
    per_class=st.tuples(*[st.integers(16, 60)] * 3),
    test_fraction=st.floats(0.1, 0.5),
    validation_fraction=st.floats(0.2, 0.5),
    seed=st.integers(0, 1000),
)
def test_every_split_and_hospital_has_its_share_of_each_class_to_within_one(
    per_class, test_fraction, validation_fraction, seed
):
    patients = [Patient(f"p{label}-{i}", label) for label, count in enumerate(per_class) for i in range(count)]
    chosen = settings(test_fraction=test_fraction, validation_fraction=validation_fraction, seed=seed)
    places = deal(patients, chosen, classes=CLASSES)
    counts = Counter((places[p.name], p.label) for p in patients)
    for label, count in enumerate(per_class):
        in_test = counts[Place("", "test"), label]
        assert abs(in_test - test_fraction * count) < 1 + 1e-9
        for hospital in HOSPITALS:
            validation = counts[Place(hospital, "validation"), label]
            here = validation + counts[Place(hospital, "train"), label]
            assert abs(here - (count - in_test) / 3) < 1
            assert abs(validation - validation_fraction * here) < 1 + 1e-9


def test_another_seed_deals_other_patients_and_the_same_seed_the_same():
    first = deal(crowd(20), settings(seed=1), classes=CLASSES)
    assert deal(crowd(20), settings(seed=1), classes=CLASSES) == first
    assert deal(crowd(20), settings(seed=2), classes=CLASSES) != first


def test_a_small_alpha_skews_the_classes_more_than_a_large_one():
    def skew(alpha: float) -> float:
        chosen = settings(dealing="dirichlet", dirichlet_alpha=alpha, seed=4, hospitals=("north", "river"))
        places = deal(crowd(200), chosen, classes=CLASSES)
        counts = Counter((places[p.name].hospital, p.label) for p in crowd(200))
        shares = [counts["north", label] / (counts["north", label] + counts["river", label]) for label in range(3)]
        return max(shares) - min(shares)

    assert skew(1000.0) < 0.1 < 0.3 < skew(0.7)


def test_the_sources_test_patients_stay_and_nobody_joins_them():
    patients = [*crowd(10), Patient("kept", 0, in_test=True)]
    places = deal(patients, settings(test_fraction=0.5), classes=CLASSES)
    assert [name for name, place in places.items() if place.split == "test"] == ["kept"]


def test_a_patient_of_an_unknown_hospital_is_named():
    with pytest.raises(DataError, match=r"Patient lost is at the hospital lake, .*preprocess\.dealing: iid"):
        patients = [*crowd(5), Patient("lost", 0, "lake"), Patient("tested", 0, in_test=True)]
        deal(patients, settings(dealing="natural"), classes=CLASSES)
    with pytest.raises(DataError, match=r"Patient p.* is at no hospital"):
        deal([Patient(f"p{i}", i % 2) for i in range(9)], settings(dealing="natural"), classes=CLASSES)


def test_a_hospital_without_patients_is_named():
    with pytest.raises(DataError, match=r"The hospital hill got no patient; name fewer hospitals"):
        deal(crowd(9, hospitals=("north", "river")), settings(dealing="natural"), classes=CLASSES)


def test_a_hospital_with_one_class_is_named():
    patients = [Patient(f"{h}{i}", i % 3 if h != "river" else 1, h) for h in HOSPITALS for i in range(12)]
    with pytest.raises(DataError, match=r"The hospital river has only bacterial in its training set"):
        deal(patients, settings(dealing="natural"), classes=CLASSES)


def test_patients_with_masks_are_dealt_without_a_class():
    patients = [Patient(f"p{i:02d}", 0) for i in range(40)]
    with pytest.raises(DataError, match="has only normal"):
        deal(patients, settings(), classes=CLASSES)
    places = deal(patients, settings(test_fraction=0.25, validation_fraction=0.2), classes=None)
    counts = Counter(places.values())
    assert counts[Place("", "test")] == 10
    assert [counts[Place(name, "validation")] for name in HOSPITALS] == [2, 2, 2]


def test_an_empty_training_set_is_named():
    with pytest.raises(DataError, match=r"The training set of the hospital north is empty \(1 patients\)"):
        deal([Patient(f"p{i}", 0) for i in range(4)], settings(validation_fraction=0.9), classes=None)


def test_an_empty_validation_set_is_named():
    with pytest.raises(
        DataError, match=r"validation set of the hospital north is empty .*validation_fraction \(0\.01\)"
    ):
        deal(crowd(9), settings(validation_fraction=0.01), classes=CLASSES)


def test_an_empty_test_set_is_named():
    with pytest.raises(DataError, match=r"left for the test set; raise preprocess\.test_fraction \(0\.0\)"):
        deal(crowd(9), settings(test_fraction=0.0), classes=CLASSES)


def test_too_much_skew_says_how_to_lessen_it():
    with pytest.raises(DataError, match=r"raise preprocess\.dirichlet_alpha \(0\.01\)"):
        deal(crowd(20), settings(dealing="dirichlet", dirichlet_alpha=0.01), classes=CLASSES)


@given(st.lists(st.integers(0, 4), min_size=1))
def test_no_class_is_more_frequent_than_the_majority_class(labels):
    assert Counter(labels)[majority_class(labels)] == max(Counter(labels).values())
    assert majority_class(reversed(labels)) == majority_class(labels)
