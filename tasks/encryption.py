"""The encrypt stage: a polynomial network distilled on phantoms, exported, and tried on encrypted test images."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.data.image_set import load_image_set
from primia.data.phantom_set import phantom_images
from primia.encrypted.agreement import encrypted_agreement, plaintext_logits
from primia.encrypted.bundle import make_bundle, save_bundle
from primia.encrypted.distil import distil
from primia.evaluation.metrics import mcc
from primia.files import folder_in_progress, write_csv, write_json
from primia.models.released import load_model
from tasks.paths import ENCRYPTED, ENCRYPTION, FEDERATED, TEST_SET
from tasks.progress import progress

if TYPE_CHECKING:
    from primia.data.image_set import ImageSet
    from primia.encrypted.bundle import Bundle
    from primia.models.released import ReleasedModel


@task(cache_policy=NO_CACHE)
def encrypt_model(params: Params) -> None:
    """Write models/encrypted and results/encryption."""
    settings = params.encryption
    teacher = load_model(FEDERATED, classes=params.ingest.classes)
    with progress("Drawing phantoms") as advance:
        images = phantom_images(
            patients=settings.phantom_patients,
            pixels=teacher.pixels,
            hospitals=params.preprocess.hospitals,
            seed=settings.seed,
            on_progress=advance,
        )
    with progress("Distilling") as advance:
        network = distil(
            teacher.logits, images, settings=settings, on_epoch=lambda epoch, _: advance(epoch, settings.epochs)
        )
    bundle = make_bundle(
        network, classes=teacher.classes, pipeline_pixels=teacher.pixels, teacher_digest=teacher.digest()
    )
    test = load_image_set(TEST_SET)
    chosen = min(settings.images, len(test))
    # Numbers, not names: the results travel with the model, and a file name may hold a name.
    agreement = encrypted_agreement(bundle, test.images[:chosen], image_ids=[str(i) for i in range(chosen)])
    figures = {key: value for key, value in asdict(agreement).items() if key != "rows"}
    figures |= _against_teacher(bundle, teacher, test) | {"teacher_digest": teacher.digest()}
    save_bundle(ENCRYPTED, bundle)
    with folder_in_progress(ENCRYPTION) as folder:
        write_json(folder / "metrics.json", figures)
        rows = ([row.image, row.label, row.plaintext, row.encrypted] for row in agreement.rows)
        write_csv(folder / "logits.csv", ["image", "class", "plaintext", "encrypted"], rows)


def _against_teacher(bundle: "Bundle", teacher: "ReleasedModel", test: "ImageSet") -> dict[str, float]:
    """What distillation cost: the student in the clear on all test images, beside its teacher."""
    logits = plaintext_logits(bundle, test.images)
    taught = teacher.logits(test.images).argmax(dim=1).numpy()
    return {
        "student_mcc": mcc(logits, test.labels.numpy()),
        "student_teacher_agreement": float((logits.argmax(axis=1) == taught).mean()),
    }
