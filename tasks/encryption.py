"""The encrypt stage: the network that answers on encrypted images, exported and tried on encrypted test images."""

from dataclasses import asdict

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.data.image_set import load_image_set
from primia.encrypted.agreement import encrypted_agreement
from primia.encrypted.bundle import make_bundle, save_bundle
from primia.encrypted.networks import encrypted_network
from primia.encrypted.provenance import provenance
from primia.encrypted.utility import network_figures
from primia.files import folder_in_progress, read_json, write_csv, write_json
from primia.models.released import load_model
from primia.models.students import encrypted_form
from tasks.environment import state_folder
from tasks.federation import floors_of
from tasks.paths import ENCRYPTED, ENCRYPTION, FEDERATED, FEDERATION, SITES, TEST_SET
from tasks.progress import progress

_COLUMNS = ("image", "class", "plaintext", "encrypted")


@task(cache_policy=NO_CACHE)
def encrypt_model(params: Params) -> None:
    """Write models/encrypted and results/encryption; of a model that marks structures, only that there is none."""
    settings = params.encryption
    teacher = load_model(FEDERATED, classes=params.ingest.classes)
    if teacher.segments:
        _write_none()
        return
    # What the ledgers told decides whether the release is private, not what params.yaml says today.
    source = provenance(
        itself=encrypted_form(teacher) is not None,
        data=settings.data,
        private=read_json(FEDERATION / "privacy.json")["enabled"],
    )
    with progress("Making the encrypted network") as advance:
        network = encrypted_network(
            params, teacher, sites=SITES, state=state_folder(), floors=floors_of(params), on_progress=advance
        )
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
    figures = {"enabled": True} | {key: value for key, value in asdict(agreement).items() if key != "rows"}
    figures |= asdict(source) | network_figures(bundle, teacher, test, settings=params.evaluation)
    save_bundle(ENCRYPTED, bundle)
    with folder_in_progress(ENCRYPTION) as folder:
        write_json(folder / "metrics.json", figures)
        rows = ([row.image, row.label, row.plaintext, row.encrypted] for row in agreement.rows)
        write_csv(folder / "logits.csv", _COLUMNS, rows)


def _write_none() -> None:
    with folder_in_progress(ENCRYPTED) as folder:
        write_json(folder / "none.json", {"reason": "models that mark structures do not answer encrypted images yet"})
    with folder_in_progress(ENCRYPTION) as folder:
        write_json(folder / "metrics.json", {"enabled": False})
        write_csv(folder / "logits.csv", _COLUMNS, ())
