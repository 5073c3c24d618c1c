"""Whose membership is asked for, and on whom an attacker's own models are trained."""

from dataclasses import dataclass

import torch
from torch import Tensor

from primia.attacks.scene import Scene, require_fit
from primia.attacks.shared_inputs import shared_inputs
from primia.data.image_set import ImageSet
from primia.errors import DataError

# With twice as many members as others it is the others on whom the uncertainty rests.
_MEMBERS_PER_OTHER = 2


@dataclass(frozen=True)
class Fold:
    """One model to be attacked: numbers of patients.

    Attributes:
        members: on whom it was trained, or is to be.
        others: on whom not.
        pool: whom the attacker trains models of its own on; none of the above.
    """

    members: Tensor
    others: Tensor
    pool: Tensor

    @property
    def asked(self) -> Tensor:
        """Members and others, in increasing order."""
        return torch.cat([self.members, self.others]).sort().values

    def half(self, reference: int, generator: torch.Generator) -> Tensor:
        """The patients of one of the attacker's models: a random half of the pool, or what the one before left of it.

        So every patient of the pool is unknown to every second model. The generator must be the same for both.
        """
        shuffled = self.pool[torch.randperm(len(self.pool), generator=generator)]
        return shuffled.tensor_split(2)[reference % 2]


@dataclass(frozen=True)
class Deal:
    """Images of everybody, with patients numbered across hospitals and candidates, and who is who.

    `learned` are the patients of the hospitals' training, asked about or not; none where candidates stand in for them.
    """

    images: Tensor
    labels: Tensor
    patients: Tensor
    folds: tuple[Fold, ...]
    learned: Tensor

    def rows(self, patients: Tensor) -> Tensor:
        """Images of some patients, in the order of the deal."""
        return torch.isin(self.patients, patients).nonzero()[:, 0]


def deal(scene: Scene) -> Deal:
    """Decide from the seed who is who.

    Where members are known, all candidates are the attacker's pool. Else candidates stand in for them: each half of the
    patients is dealt to the members and others of one model, with the other half as the attacker's pool, so that every
    patient is asked about once.

    Raises:
        DataError: too few candidates, or images that do not fit the model.
    """
    candidates, known = scene.candidates, scene.membership
    require_enough(scene)
    count = len(candidates.patient_ids)
    if known is None:
        order = torch.randperm(count, generator=scene.generator("membership", "stand-ins"))
        one, two = order.tensor_split(2)
        folds = (_fold(one, pool=two), _fold(two, pool=one))
        return Deal(candidates.images, candidates.labels.long(), candidates.patients, folds, torch.arange(0))
    members, others = len(known.members.patient_ids), len(known.others.patient_ids)
    drawn = torch.randperm(members, generator=scene.generator("membership", "members"))
    asked = drawn[: _MEMBERS_PER_OTHER * others].sort().values
    first, last = count + members, count + members + others
    fold = Fold(count + asked, torch.arange(first, last), torch.arange(count))
    return _joined((candidates, known.members, known.others), fold, learned=torch.arange(count, first))


def require_enough(scene: Scene) -> None:
    """Refuse a scene with too few patients, or images that do not fit the model, before any work is done.

    Raises:
        DataError: see `deal`.
    """
    require_fit(scene.candidates, scene.released)
    count, known = len(scene.candidates.patient_ids), scene.membership
    needed = 2 * learned_at_once(scene.candidates) * (scene.budget.references + 1)
    if count < needed:
        raise DataError(
            f"Membership inference needs {needed} candidate patients, but there are {count}; add test patients."
        )
    if known is None:
        return
    members, others = len(known.members.patient_ids), len(known.others.patient_ids)
    if min(members, others) < needed:
        raise DataError(
            f"Membership inference needs {needed} training and as many validation patients, but there are {members} "
            f"and {others}; set attack.membership to stand_in."
        )


def learned_at_once(images: ImageSet) -> int:
    """Patients whom a model may have to itself: one of each class, or one where the class is a pixel's."""
    return 1 if images.masks else len(images.classes)


def inputs_of_deal(scene: Scene, dealt: Deal) -> Tensor:
    """What heads see of all images of a deal, computed once for all parts that work on a scene; not to be changed."""
    return shared_inputs(scene, dealt.images).all()


def _fold(asked: Tensor, *, pool: Tensor) -> Fold:
    members, others = asked.tensor_split(2)
    return Fold(members, others, pool)


def _joined(sets: tuple[ImageSet, ...], fold: Fold, *, learned: Tensor) -> Deal:
    starts = torch.tensor([0, *(len(each.patient_ids) for each in sets)]).cumsum(0)
    return Deal(
        torch.cat([each.images for each in sets]),
        torch.cat([each.labels for each in sets]).long(),
        torch.cat([each.patients + start for each, start in zip(sets, starts[:-1], strict=True)]),
        (fold,),
        learned,
    )
