"""Synthetic patients: their class, hospital, anatomy, and one to four exposures each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from primia.consistency import PHANTOM_CLASSES
from primia.data.phantom.anatomy import Anatomy, draw_anatomy, draw_pose, frame_of
from primia.data.phantom.devices import draw_devices, draw_marker, render_devices, stamp_marker
from primia.data.phantom.findings import Finding, draw_finding, render_finding
from primia.data.phantom.scanner import Scanner, draw_exposure, expose, scanner_of
from primia.data.phantom.skeleton import render_skeleton
from primia.data.phantom.tissue import render_tissue
from primia.errors import DataError

AIR_CONTRAST = 0.62  # attenuation a lung full of air takes away, of a slim child's trunk
IMAGES_PER_PATIENT = (0.55, 0.25, 0.13, 0.07)  # chance of one, two, three, four

_DEALING, _PATIENT = 0, 1  # first spawn key: what a stream of random numbers is for


@dataclass(frozen=True)
class PhantomImage:
    """One synthetic chest radiograph with its labels and lung mask."""

    image_id: str
    patient_id: str
    label: str
    hospital: str
    pixels: NDArray[np.uint8]  # (height, width)
    lung_mask: NDArray[np.bool_]  # (height, width); aerated lung as it would be without disease


def generate_phantoms(*, patients: int, pixels: int, hospitals: Sequence[str], seed: int) -> Iterator[PhantomImage]:
    """Generate images of (pixels, pixels), patient by patient.

    Every patient has streams of random numbers of its own, so its images depend on `seed`, `hospitals` and its
    number only, not on how many patients follow; anatomy and findings do not depend on `pixels` either.
    Hospitals and classes are dealt in blocks that hold each pair once: balanced, and independent of each other.

    Raises:
        DataError: no hospital, a hospital named twice, fewer than 32 pixels, or a negative count.
    """
    if not hospitals or len(set(hospitals)) != len(hospitals):
        raise DataError(f"hospitals is {list(hospitals)}; name at least one, each once.")
    if pixels < 32 or patients < 0:
        raise DataError(f"pixels is {pixels} and patients {patients}; phantoms need 32 pixels or more, and a count.")
    return _generate(patients, pixels, tuple(hospitals), seed)


def _generate(patients: int, pixels: int, hospitals: tuple[str, ...], seed: int) -> Iterator[PhantomImage]:
    scanners = [scanner_of(hospital) for hospital in hospitals]
    pairs = len(hospitals) * len(PHANTOM_CLASSES)
    order = np.empty(0, np.int64)
    for number in range(patients):
        block, place = divmod(number, pairs)
        if place == 0:
            order = default_rng(SeedSequence(seed, spawn_key=(_DEALING, block))).permutation(pairs)
        at, kind = divmod(int(order[place]), len(PHANTOM_CLASSES))
        label = PHANTOM_CLASSES[kind]
        own, *each = SeedSequence(seed, spawn_key=(_PATIENT, number)).spawn(1 + len(IMAGES_PER_PATIENT))
        rng = default_rng(own)
        count = 1 + int(rng.choice(len(IMAGES_PER_PATIENT), p=IMAGES_PER_PATIENT))
        anatomy, finding = draw_anatomy(rng), draw_finding(label, rng)
        patient_id = f"phantom-{number:05d}"
        for index in range(count):
            film, mask = _take_image(anatomy, finding, scanners[at], default_rng(each[index]), pixels)
            yield PhantomImage(f"{patient_id}-{index}", patient_id, label, hospitals[at], film, mask)


def _take_image(
    anatomy: Anatomy, finding: Finding, scanner: Scanner, rng: Generator, pixels: int
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    # All draws come before the noise, the only one whose size depends on the image.
    pose, devices, marker, exposure = draw_pose(rng), draw_devices(rng), draw_marker(rng), draw_exposure(scanner, rng)
    frame = frame_of(anatomy, pose, pixels=pixels)
    tissue = render_tissue(anatomy, pose, frame)
    fluid, shadows = render_finding(finding, anatomy, frame)
    air = tissue.air * (1.0 - fluid)
    contrast = AIR_CONTRAST * (1.0 - 0.30 * anatomy.corpulence)
    attenuation = tissue.body - contrast * air + np.minimum(air * 2.0, 1.0) * (tissue.vessels + shadows)
    attenuation = attenuation + render_skeleton(anatomy, pose, frame) + render_devices(devices, frame)
    film = expose(attenuation, target=tissue.solid > 0.5, scanner=scanner, exposure=exposure, rng=rng)
    if marker is not None:
        stamp_marker(marker, film)
    top = max(float(film.max()), 1e-6)
    grey = np.rint(film * np.float32(255.0 / top)).astype(np.uint8)
    return grey, tissue.air > 0.45
