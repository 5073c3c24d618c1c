"""The networks of benchmarks/encrypted_accuracy.py: trained where a folder does not hold them yet."""

from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.grid import overlaid, prepare
from primia.config import Params, parse_params
from primia.data.image_set import load_image_set
from primia.data.phantom_set import phantom_images
from primia.encrypted.bundle import Bundle, load_bundle, make_bundle, save_bundle
from primia.encrypted.distil import distil, lessons_from
from primia.encrypted.networks import encrypted_network
from primia.federation.floors import Floors
from primia.federation.run import federate
from primia.models.polynomial import PolynomialNetwork, shrink
from primia.models.released import ReleasedModel, load_model, save_model

# The owner of this machine stands for all hospitals; their floors are not what is measured.
FLOORS = Floors(allow_newcomers=True, maximum_epsilon=100.0, maximum_delta=1.0)
LARGE = 224
TEACHERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Not every processor calculates in bfloat16, and those that do round otherwise.
    "teacher": ("chest_xray", {"training": {"precision": "float32"}}),
    "scattering": ("chest_xray_private", {"privacy": {"enabled": False}}),
    "scattering_private": ("chest_xray_private", {}),
}


class Networks:
    """Everything below `work`, made at its first use; a killed run goes on."""

    def __init__(self, data: Path, work: Path, *, teacher: Path | None = None) -> None:
        """`data` holds labels.csv and the images; `teacher` a model that `save_model` wrote, else it is trained."""
        self._data, self._work, self._teacher = data, work, teacher

    def params(self, name: str, **more: Any) -> Params:
        """The parameters of one of `TEACHERS` over params.yaml, with the sections of `more` over them."""
        profile, changes = TEACHERS[name]
        raw = yaml.safe_load(Path("params.yaml").read_text())
        for layer in (yaml.safe_load(Path(f"profiles/{profile}.yaml").read_text()), changes, more):
            raw = overlaid(raw, layer)
        raw["ingest"]["folder"] = str(self._data)
        # No hospital waits for another one here.
        raw["federation"]["deadline_s"] = 3600.0
        return parse_params(raw)

    def images(self, pixels: int) -> Path:
        """The folder of the prepared images of this size: sites/ and test/."""
        folder = self._work / f"images{pixels}"
        prepare(self.params("teacher", preprocess={"pixels": pixels}), folder)
        return folder

    def model(self, name: str) -> ReleasedModel:
        """One of `TEACHERS`."""
        folder = self._teacher if name == "teacher" and self._teacher else self._work / name
        params = self.params(name)
        if not (folder / "model.json").exists():
            images = self.images(params.preprocess.pixels)
            result = federate(params, sites=images / "sites", state=self._work / "state" / name, floors=FLOORS)
            save_model(folder, result.model)
        return load_model(folder, classes=params.ingest.classes)

    def bundle(self, name: str, folder: Path) -> Bundle:
        """The bundle of a network in `folder`, which is made if it is not there."""
        if not (folder / "bundle.json").exists():
            is_student = name not in TEACHERS
            teacher = self.model("teacher" if is_student else name)
            network = self._student(int(name), teacher) if is_student else self._encrypted(name, teacher)
            save_bundle(
                folder,
                make_bundle(
                    network,
                    classes=teacher.classes,
                    pipeline_pixels=max(teacher.pixels, network.pixels),
                    teacher_digest=teacher.digest(),
                ),
            )
        return load_bundle(folder)

    def _student(self, pixels: int, teacher: ReleasedModel) -> PolynomialNetwork:
        if pixels > teacher.pixels:
            return self._large_student(pixels, teacher)
        return self._encrypted("teacher", teacher, encryption={"pixels": pixels, "data": "hospitals"})

    def _encrypted(self, name: str, teacher: ReleasedModel, **more: Any) -> PolynomialNetwork:
        """What the pipeline makes of a released model."""
        params = self.params(name, **more)
        return encrypted_network(
            params,
            teacher,
            sites=self.images(teacher.pixels) / "sites",
            state=self._work / "state" / f"student{params.encryption.pixels}",
            floors=FLOORS,
        )

    def _large_student(self, pixels: int, teacher: ReleasedModel) -> PolynomialNetwork:
        """A student that sees more than its teacher, which gets each image shrunk by area.

        The pipeline has one size of images, so it is taught in one place: on phantoms and on the pooled training
        images of all hospitals.
        """
        params = self.params("teacher", preprocess={"pixels": pixels}, encryption={"pixels": pixels})
        settings, hospitals = params.encryption, params.preprocess.hospitals
        sites = self.images(pixels) / "sites"
        pooled = [load_image_set(sites / name / "train.safetensors").images for name in hospitals]
        pooled.append(
            phantom_images(patients=settings.phantom_patients, pixels=pixels, hospitals=hospitals, seed=settings.seed)
        )
        lessons = lessons_from(
            lambda images: teacher.logits(
                shrink(images, pixels=teacher.pixels).view(-1, 1, teacher.pixels, teacher.pixels)
            ),
            torch.cat(pooled),
            seed=settings.seed,
        )
        return distil(lessons, settings=settings)
