"""What a site computes on its own images when the federation teaches a student."""

import hmac

import numpy as np
import torch
from torch import Tensor

from primia.data.image_set import ImageSet
from primia.errors import ProtocolError
from primia.federation.plan import Plan
from primia.federation.weights import Floats, head_vector, load_head, vector_digest
from primia.federation.work import LocalResult, local_seed
from primia.models.polynomial import PolynomialNetwork
from primia.models.released import ReleasedModel
from primia.models.students import build_student, fold_normalisation
from primia.privacy.noise import NoiseSource
from primia.secagg.quantise import within_norm
from primia.training.augment import changed_copies
from primia.training.distilled import train_student
from primia.training.objective import learning_rate_of

_BATCH = 128


class StudentWork:
    """The student of a plan, its teacher, and one site's images; it stands in for `LocalWork`.

    The teacher answers once, before the first round that trains, about every training image and its changed copies.
    Labels are used by the validation only.
    """

    def __init__(self, plan: Plan, *, name: str, train: ImageSet, validation: ImageSet, teacher: Floats) -> None:
        """`teacher` holds its weights, (parameters,).

        Raises:
            ConfigError: the plan describes no student, or no teacher, of this version.
            ProtocolError: the weights are not those of the plan's teacher.
        """
        assert plan.student is not None
        torch.set_num_threads(plan.training.threads)
        self._plan, self._student, self._name = plan, plan.student, name
        self._train, self._validation = train, validation
        self._network = student_network(pixels=plan.student.pixels, classes=len(plan.classes))
        self._network.mean.fill_(plan.student.mean)
        self._network.std.fill_(plan.student.std)
        self.parameters = len(head_vector(self._network))
        self._teacher = _checked_teacher(plan, teacher)
        self._lessons: tuple[Tensor, Tensor] | None = None
        self._seen: Tensor | None = None

    def train(
        self,
        model: Floats,
        *,
        mean: float,
        std: float,
        round: int,
        noise: NoiseSource,
        class_weights: tuple[float, ...] | None = None,
    ) -> LocalResult:
        """One round of distillation from `model`, (parameters,); see `LocalWork.train`.

        Raises:
            ProtocolError: images are standardised, or the first round starts, otherwise than the plan says.
        """
        del noise, class_weights
        self._check(mean, std)
        if round == 1 and not hmac.compare_digest(vector_digest(model), self._student.start):
            raise ProtocolError("The first round does not start from the weights that the plan names.")
        load_head(self._network, model)
        inputs, targets = self._taught()
        settings = self._plan.training
        loss = train_student(
            self._network,
            inputs=inputs,
            targets=targets,
            spread=self._student.spread,
            epochs=settings.local_epochs,
            steps=settings.local_steps,
            batch_size=settings.batch_size,
            learning_rate=learning_rate_of(
                settings.learning_rate, settings.schedule, round=round, rounds=self._plan.rounds
            ),
            seed=local_seed(settings.seed, round=round, site=self._name),
        )
        delta = head_vector(self._network).astype(np.float64) - model.astype(np.float64)
        if not np.isfinite(delta).all():
            # Bounded weights do not bound a polynomial. An error would tell whose images a crafted model overflows on;
            # staying where it was, with the largest loss there is, tells a sum that something is wrong.
            return LocalResult(delta=np.zeros(self.parameters), loss=np.inf, shrunk=False)
        delta, shrunk = within_norm(delta, bound=self._plan.secure_aggregation.norm_bound)
        return LocalResult(delta=delta, loss=loss, shrunk=shrunk)

    def validate(self, model: Floats, *, mean: float, std: float) -> Tensor:
        """Logits of `model` on the validation images, (images, classes) float32.

        Raises:
            ProtocolError: images are standardised otherwise than the plan says.
        """
        self._check(mean, std)
        load_head(self._network, model)
        self._network.eval()
        if self._seen is None:
            self._seen = self._inputs(self._validation.images)
        with torch.no_grad():
            return torch.cat([self._network(batch.float()) for batch in torch.split(self._seen, _BATCH)])

    def _check(self, mean: float, std: float) -> None:
        if (mean, std) != (self._student.mean, self._student.std):
            raise ProtocolError("The request standardises the student's images otherwise than the plan says.")

    def _taught(self) -> tuple[Tensor, Tensor]:
        """Inputs of the student, (rows, values), and the teacher's logits, (rows, classes); equal in every process."""
        if self._lessons is None:
            teacher, images = self._teacher, self._train.images
            if self._plan.training.augment:
                seed = local_seed(self._plan.training.seed, round=0, site=self._name)
                copies = changed_copies(images, mean=teacher.mean, std=teacher.std, seed=seed)
                images = torch.cat([images.half(), copies])
            self._lessons = self._inputs(images), teacher.logits(images)
        return self._lessons

    def _inputs(self, images: Tensor) -> Tensor:
        # Half precision: the copies of large images would fill the memory, and they were half precision before.
        return torch.cat([self._network.inputs(batch).half() for batch in torch.split(images, _BATCH)])


def student_network(*, pixels: int, classes: int) -> PolynomialNetwork:
    """The student of a plan: all it has are weights, which travel, and a standardisation, which is public."""
    return fold_normalisation(build_student(pixels=pixels, classes=classes, seed=0))


def _checked_teacher(plan: Plan, weights: Floats) -> ReleasedModel:
    assert plan.student is not None
    network = plan.network()
    if len(weights) == len(head_vector(network.head)):
        load_head(network.head, weights)
        teacher = plan.released(network, mean=plan.student.teacher_mean, std=plan.student.teacher_std, round=0)
        if hmac.compare_digest(teacher.digest(), plan.student.teacher):
            return teacher
    raise ProtocolError("The weights of the teacher do not match its digest or architecture in the plan.")
