"""Making the network that answers on encrypted images: the released model itself, or its student."""

from collections.abc import Callable
from pathlib import Path

from primia.config import Params
from primia.data.phantom_set import phantom_images
from primia.encrypted.distil import distil, inputs_of, lessons_from
from primia.federation.floors import Floors
from primia.federation.student import federate_student
from primia.models.polynomial import PolynomialNetwork
from primia.models.released import ReleasedModel
from primia.models.students import encrypted_form, fold_normalisation

OnProgress = Callable[[int, int], None]


def _ignored(done: int, total: int) -> None:
    pass


def encrypted_network(
    params: Params,
    teacher: ReleasedModel,
    *,
    sites: Path,
    state: Path,
    floors: Floors | None = None,
    on_progress: OnProgress = _ignored,
) -> PolynomialNetwork:
    """The network to encrypt for a released model, as `encryption` of `params` wants it.

    A student is distilled on phantoms; with `encryption.data` hospitals it is then folded and taught on at the
    hospitals, whose images stay there. Its ranges are recorded on phantoms, since the largest values met at a hospital
    stay there, too.

    Args:
        params: all of params.yaml.
        teacher: the released model.
        sites: see `primia.federation.run.federate`; opened for `encryption.data` hospitals only.
        state: see there.
        floors: see there.
        on_progress: told how much of a part is done, and of how much: phantoms, then epochs, then rounds.

    Raises:
        PrimiaError: one sentence; an interrupted federation goes on at the same call.
    """
    settings = params.encryption
    phantoms = phantom_images(
        patients=settings.phantom_patients,
        pixels=teacher.pixels,
        hospitals=params.preprocess.hospitals,
        seed=settings.seed,
        on_progress=on_progress,
    )
    network = encrypted_form(teacher)
    if network is not None:
        network.record_ranges(inputs_of(network, phantoms))
        return network
    lessons = lessons_from(teacher.logits, phantoms, seed=settings.seed)
    network = distil(lessons, settings=settings, on_epoch=lambda epoch, _: on_progress(epoch, settings.epochs))
    if settings.data == "phantoms":
        return network
    taught = federate_student(
        params,
        teacher=teacher,
        student=fold_normalisation(network),
        spread=lessons.spread,
        sites=sites,
        state=state,
        floors=floors,
        on_round=lambda record: on_progress(record.round, settings.rounds),
    )
    taught.record_ranges(inputs_of(taught, lessons.images))
    return taught
