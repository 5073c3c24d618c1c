"""Deal patients, never single images, to hospitals and to training, validation and test."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from primia.config import Preprocess
from primia.errors import DataError


@dataclass(frozen=True)
class Patient:
    """One patient; `label` is the index of the class most of the patient's images have, and 0 where they have masks.

    `hospital` is empty where the source names none. `in_test` says that the source put the patient in its test set.
    """

    name: str
    label: int
    hospital: str = ""
    in_test: bool = False


@dataclass(frozen=True)
class Place:
    """Where a patient goes: `split` is train, validation or test; `hospital` is empty for test."""

    hospital: str
    split: str


def majority_class(labels: Iterable[int]) -> int:
    """The most frequent label; among equally frequent ones the smallest."""
    counts = Counter(labels)
    return min(counts, key=lambda label: (-counts[label], label))


def deal(patients: Iterable[Patient], settings: Preprocess, *, classes: Sequence[str] | None) -> dict[str, Place]:
    """Give every patient exactly one place; the answer does not depend on the order of `patients`.

    Patients whom the source put in its test set stay there and nobody joins them; a source without test
    patients gives up `test_fraction` of its patients. The others go to hospitals, and `validation_fraction` of
    each hospital's patients to validation, all stratified by class. `classes` is None where images have masks: no
    patient has a class then, and no hospital can lack one.

    Raises:
        DataError: a hospital without patients, with fewer than two classes in training or with an empty
            validation set; an empty test set; with natural dealing a patient without, or of an unknown, hospital.
    """
    everybody = sorted(patients, key=lambda patient: patient.name)
    in_test = {patient.name for patient in everybody if patient.in_test}
    if not in_test:
        in_test = _stratified(everybody, settings.test_fraction, _random(settings, 0))
    if not in_test:
        raise DataError(
            f"No patient of {len(everybody)} is left for the test set; raise preprocess.test_fraction "
            f"({settings.test_fraction})."
        )
    places = {name: Place("", "test") for name in sorted(in_test)}
    rest = [patient for patient in everybody if patient.name not in in_test]
    hospitals = _to_hospitals(rest, settings)
    for number, (hospital, members) in enumerate(hospitals.items()):
        in_validation = _stratified(members, settings.validation_fraction, _random(settings, 2, number))
        _check(hospital, members, in_validation, settings=settings, classes=classes)
        for patient in members:
            split = "validation" if patient.name in in_validation else "train"
            places[patient.name] = Place(hospital, split)
    return places


def _random(settings: Preprocess, *purpose: int) -> np.random.Generator:
    """A stream of its own per purpose, so that one fraction can change without reshuffling the rest."""
    return np.random.default_rng([settings.seed, *purpose])


def _shuffled(patients: Sequence[Patient], random: np.random.Generator) -> list[Patient]:
    """Class by class (and hospital by hospital within a class), in random order within."""
    order = [patients[i] for i in random.permutation(len(patients))]
    return sorted(order, key=lambda patient: (patient.label, patient.hospital))


def _stratified(patients: Sequence[Patient], fraction: float, random: np.random.Generator) -> set[str]:
    """Names of round(fraction * patients) patients; each class gives its share to within one patient.

    Systematic sampling along the class-ordered list (Madow & Madow 1944).
    """

    def picked_before(position: int) -> int:
        return math.floor(position * fraction + 0.5)

    return {
        patient.name for i, patient in enumerate(_shuffled(patients, random)) if picked_before(i + 1) > picked_before(i)
    }


def _to_hospitals(patients: Sequence[Patient], settings: Preprocess) -> Mapping[str, list[Patient]]:
    dealt: dict[str, list[Patient]] = {name: [] for name in settings.hospitals}
    random = _random(settings, 1)
    match settings.dealing:
        case "natural":
            for patient in patients:
                if patient.hospital not in dealt:
                    raise DataError(_no_such_hospital(patient, settings))
                dealt[patient.hospital].append(patient)
        case "iid":  # like cards: class shares are equal to within one patient
            for i, patient in enumerate(_shuffled(patients, random)):
                dealt[settings.hospitals[i % len(dealt)]].append(patient)
        case "dirichlet":  # Hsu, Qi & Brown 2019, by class as in Yurochkin et al. 2019
            for label in sorted({patient.label for patient in patients}):
                members = [patient for patient in _shuffled(patients, random) if patient.label == label]
                shares = random.dirichlet([settings.dirichlet_alpha] * len(dealt))
                ends = np.rint(np.cumsum(shares) * len(members)).astype(int)
                starts = [0, *ends[:-1]]
                for hospital, start, end in zip(settings.hospitals, starts, ends, strict=True):
                    dealt[hospital] += members[start:end]
    return dealt


def _no_such_hospital(patient: Patient, settings: Preprocess) -> str:
    what = f"is at the hospital {patient.hospital}" if patient.hospital else "is at no hospital"
    return (
        f"Patient {patient.name} {what}, but preprocess.dealing is natural and preprocess.hospitals are "
        f"{', '.join(settings.hospitals)}; correct the manifest's source, preprocess.hospitals, or deal the patients "
        "with preprocess.dealing: iid."
    )


def _check(
    hospital: str,
    members: Sequence[Patient],
    in_validation: set[str],
    *,
    settings: Preprocess,
    classes: Sequence[str] | None,
) -> None:
    ways_out = "name fewer hospitals in preprocess.hospitals, or change preprocess.dealing or preprocess.seed"
    if settings.dealing == "dirichlet":
        ways_out = f"raise preprocess.dirichlet_alpha ({settings.dirichlet_alpha}), {ways_out}"
    if not members:
        raise DataError(f"The hospital {hospital} got no patient; {ways_out}.")
    if not in_validation:
        raise DataError(
            f"The validation set of the hospital {hospital} is empty ({len(members)} patients); raise "
            f"preprocess.validation_fraction ({settings.validation_fraction}), or {ways_out}."
        )
    learned = {patient.label for patient in members if patient.name not in in_validation}
    if not learned:
        raise DataError(
            f"The training set of the hospital {hospital} is empty ({len(members)} patients); {ways_out}, or lower "
            f"preprocess.validation_fraction ({settings.validation_fraction})."
        )
    if classes is not None and len(learned) < 2:
        only = ", ".join(classes[label] for label in learned)
        raise DataError(
            f"The hospital {hospital} has only {only} in its training set and would learn nothing; "
            f"{ways_out}, or lower preprocess.validation_fraction ({settings.validation_fraction})."
        )
