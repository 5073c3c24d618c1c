"""Teaching the network that answers on encrypted images at the hospitals: their images stay there, sums leave."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

from primia.config import Model, Params, Server, Training
from primia.errors import ConfigError
from primia.federation.channel import Channel
from primia.federation.checkpoint import RoundRecord, open_run
from primia.federation.coordinator import Coordinator, Lesson
from primia.federation.floors import Floors
from primia.federation.plan import StudentPlan
from primia.federation.run import describe, local_hospitals
from primia.federation.student_work import student_network
from primia.federation.weights import head_vector, load_head, vector_digest
from primia.models.polynomial import PolynomialNetwork
from primia.models.released import ReleasedModel


def federate_student(
    params: Params,
    *,
    teacher: ReleasedModel,
    student: PolynomialNetwork,
    spread: float,
    sites: Path,
    state: Path,
    floors: Floors | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> PolynomialNetwork:
    """Teach a student what the released model answers, on the hospitals' own images, without differential privacy.

    The federation is the one of `federate`: rounds, masked sums, refusals, checkpoints. Only the loss differs
    (`primia.training.distilled`), and the coordinator sends the teacher's weights along with the plan. An interrupted
    run of the same plan, teacher and first weights goes on after its last finished step.

    Args:
        params: all of params.yaml; see `student_params`.
        teacher: a model of a federation, with the classes and the image size of `params`.
        student: where the rounds start, as `fold_normalisation` leaves what `build_student` makes; not changed.
        spread: standard deviation of the teacher's centred logits, on public images such as phantoms.
        sites: see `federate`.
        state: see `federate`.
        floors: see `federate`.
        on_round: called after each newly finished round, with validation figures of the student.

    Returns:
        A network with the weights that `federation.release` chooses, in evaluation. Its ranges are not recorded: the
        largest values met at a hospital stay there.

    Raises:
        ConfigError: privacy is on, or teacher or student do not fit the parameters.
        PrimiaError: one sentence with the hospital and the reason; nothing is lost, and the same call resumes.
    """
    _check(params, teacher, student)
    with local_hospitals(params, sites=sites, state=state, floors=floors) as channel:
        return teach(
            params,
            channel,
            teacher=teacher,
            student=student,
            spread=spread,
            runs=state / "federation",
            on_round=on_round,
        )


def teach(
    params: Params,
    channel: Channel,
    *,
    teacher: ReleasedModel,
    student: PolynomialNetwork,
    spread: float,
    runs: Path,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> PolynomialNetwork:
    """`federate_student` over any channel; `runs` is the coordinator's folder."""
    _check(params, teacher, student)
    lesson = Lesson(start=head_vector(student), teacher=head_vector(teacher.network.head))
    part = StudentPlan(
        pixels=student.pixels,
        start=vector_digest(lesson.start),
        mean=float(student.mean),
        std=float(student.std),
        teacher=teacher.digest(),
        teacher_mean=teacher.mean,
        teacher_std=teacher.std,
        spread=spread,
    )
    changed = student_params(params, teacher)
    plan, folder = open_run(runs, describe(channel, changed, runs=runs, privacy=None, student=part))
    coordinator = Coordinator(
        plan,
        channel=channel,
        folder=folder,
        deadline_s=params.federation.deadline_s,
        lesson=lesson,
        on_round=on_round,
    )
    progress, _ = coordinator.rounds()
    taught = deepcopy(student)
    load_head(taught, progress.released)
    taught.largest.zero_()
    folder.finish(progress.records)
    return taught.eval()


def student_params(params: Params, teacher: ReleasedModel) -> Params:
    """The parameters of the student's run.

    Rounds and local training are those of `encryption`, and changes are averaged without a server optimiser; what is
    left of `federation` and `secure_aggregation` holds as it stands.
    """
    settings = params.encryption
    return params.model_copy(
        update={
            "model": Model.model_validate(
                {
                    "architecture": teacher.architecture,
                    "weight_standardisation": teacher.weight_standardisation,
                    "seed": params.model.seed,
                }
            ),
            "training": Training(
                local_epochs=settings.local_epochs,
                batch_size=params.training.batch_size,
                learning_rate=settings.hospital_learning_rate,
                schedule="cosine",
                augment=params.training.augment,
                threads=params.training.threads,
                seed=settings.seed,
            ),
            "federation": params.federation.model_copy(
                update={"rounds": settings.rounds, "server": Server(), "average": 0.0}
            ),
        }
    )


def _check(params: Params, teacher: ReleasedModel, student: PolynomialNetwork) -> None:
    """Say what cannot be taught before a hospital is asked."""
    if params.privacy.enabled:
        raise ConfigError(
            "privacy.enabled is true, but a student taught on the hospitals' images would show what no noise covers; "
            "distil it on phantoms, or set privacy.enabled to false."
        )
    if (teacher.classes, teacher.pixels) != (params.ingest.classes, params.preprocess.pixels):
        raise ConfigError(
            f"The teacher knows {teacher.pixels}-pixel images of {', '.join(teacher.classes)}, which is not what "
            "params.yaml says; train it again."
        )
    known = student_network(pixels=student.pixels, classes=len(teacher.classes))
    shapes = [[(name, weight.shape) for name, weight in each.named_parameters()] for each in (student, known)]
    assert student.front == "shrink" and shapes[0] == shapes[1]
