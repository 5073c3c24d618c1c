"""The encrypt stage: the network that answers on encrypted images, exported and tried on encrypted test images."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.data.image_set import load_image_set
from primia.data.phantom_set import phantom_images
from primia.encrypted.agreement import encrypted_agreement
from primia.encrypted.bundle import make_bundle, save_bundle
from primia.encrypted.distil import distil, inputs_of, lessons_from
from primia.encrypted.provenance import provenance
from primia.encrypted.utility import network_figures
from primia.federation.student import federate_student
from primia.files import folder_in_progress, read_json, write_csv, write_json
from primia.models.released import load_model
from primia.models.students import encrypted_form, fold_normalisation
from tasks.environment import state_folder
from tasks.federation import floors_of
from tasks.paths import ENCRYPTED, ENCRYPTION, FEDERATED, FEDERATION, SITES, TEST_SET
from tasks.progress import progress

if TYPE_CHECKING:
    from torch import Tensor

    from primia.encrypted.distil import Lessons
    from primia.models.polynomial import PolynomialNetwork
    from primia.models.released import ReleasedModel


@task(cache_policy=NO_CACHE)
def encrypt_model(params: Params) -> None:
    """Write models/encrypted and results/encryption."""
    settings = params.encryption
    teacher = load_model(FEDERATED, classes=params.ingest.classes)
    network = encrypted_form(teacher)
    # The ledger decides what is private, not what params.yaml says today.
    source = provenance(
        itself=network is not None, data=settings.data, private=bool(_privacy(FEDERATION / "privacy.json"))
    )
    phantoms = _phantoms(params, pixels=teacher.pixels)
    if network is None:
        network = _student(params, teacher, phantoms)
    else:
        network.record_ranges(inputs_of(network, phantoms))
    bundle = make_bundle(
        network,
        classes=teacher.classes,
        pipeline_pixels=teacher.pixels,
        teacher_digest=teacher.digest(),
        profile=settings.profile,
    )
    test = load_image_set(TEST_SET)
    chosen = min(settings.images, len(test))
    # Numbers, not names: the results travel with the model, and a file name may hold a name.
    agreement = encrypted_agreement(bundle, test.images[:chosen], image_ids=[str(i) for i in range(chosen)])
    figures = {key: value for key, value in asdict(agreement).items() if key != "rows"}
    figures |= asdict(source) | network_figures(bundle, teacher, test, settings=params.evaluation)
    save_bundle(ENCRYPTED, bundle)
    with folder_in_progress(ENCRYPTION) as folder:
        write_json(folder / "metrics.json", figures)
        rows = ([row.image, row.label, row.plaintext, row.encrypted] for row in agreement.rows)
        write_csv(folder / "logits.csv", ["image", "class", "plaintext", "encrypted"], rows)


def _privacy(path: Path) -> object:
    return read_json(path)["enabled"]


def _phantoms(params: Params, *, pixels: int) -> "Tensor":
    with progress("Drawing phantoms") as advance:
        return phantom_images(
            patients=params.encryption.phantom_patients,
            pixels=pixels,
            hospitals=params.preprocess.hospitals,
            seed=params.encryption.seed,
            on_progress=advance,
        )


def _student(params: Params, teacher: "ReleasedModel", phantoms: "Tensor") -> "PolynomialNetwork":
    settings = params.encryption
    lessons = lessons_from(teacher.logits, phantoms, seed=settings.seed)
    with progress("Distilling on phantoms") as advance:
        network = distil(lessons, settings=settings, on_epoch=lambda epoch, _: advance(epoch, settings.epochs))
    if settings.data == "phantoms":
        return network
    return _taught_at_hospitals(params, teacher, network, lessons)


def _taught_at_hospitals(
    params: Params, teacher: "ReleasedModel", network: "PolynomialNetwork", lessons: "Lessons"
) -> "PolynomialNetwork":
    settings = params.encryption
    with progress("Distilling at the hospitals") as advance:
        taught = federate_student(
            params,
            teacher=teacher,
            student=fold_normalisation(network),
            spread=lessons.spread,
            sites=SITES,
            state=state_folder(),
            floors=floors_of(params),
            on_round=lambda record: advance(record.round, settings.rounds),
        )
    # Of public images: the largest values met at a hospital stay there.
    taught.record_ranges(inputs_of(taught, lessons.images))
    return taught
