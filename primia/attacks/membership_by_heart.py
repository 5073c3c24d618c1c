"""Models that know a few patients by heart: whether the code of the membership attack works at all.

They say nothing of a release, whose training may memorise much less; its positive control is its undefended
counterpart, in `membership_models`.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from primia.attacks.contract import Advance
from primia.attacks.membership_deal import deal, inputs_of_deal, learned_at_once
from primia.attacks.membership_scores import Scores, by_patient, confidence_of, joined, lira, rmia
from primia.attacks.membership_training import learn_by_heart, memorising_rate
from primia.attacks.scene import Scene
from primia.data.image_set import ImageSet

PATIENTS = 120  # known by heart in all


@dataclass(frozen=True)
class Group:
    """One model: numbers of patients.

    Attributes:
        members: whom it learns: one of each class, so that it is not the class that gives a patient away, or of masks
            one.
        others: whom no model learns.
    """

    members: Tensor
    others: Tensor


def blocks_by_heart(scene: Scene) -> list[list[Group]]:
    """Deal the candidates to models that learn them by heart, and to those who ask about them.

    In a block each model is attacked with all others as references, as many as the real attack has, and trained in the
    same way; no two know a patient in common.
    """
    generator = scene.generator("membership", "by heart")
    by_class = [part[torch.randperm(len(part), generator=generator)] for part in _by_class(scene.candidates)]
    size, block = len(by_class), scene.budget.references + 1
    # Half of the patients at least are learned by nobody.
    possible = min(*(len(part) for part in by_class), len(scene.candidates.patient_ids) // (2 * size))
    blocks = max(1, min(possible, -(-PATIENTS // size)) // block)
    groups = blocks * block
    members = torch.stack([part[:groups] for part in by_class], dim=1)
    rest = torch.cat([part[groups:] for part in by_class])
    others = rest[torch.randperm(len(rest), generator=generator)].tensor_split(groups)
    dealt = [Group(*each) for each in zip(members, others, strict=True)]
    return [dealt[start : start + block] for start in range(0, groups, block)]


def attack_block(scene: Scene, block: list[Group], advance: Advance) -> Scores:
    """Train the models of a block, and attack each; `advance` is told (models trained, models)."""
    # Candidates come first in the deal, with their own numbers.
    dealt, start = deal(scene), scene.model("first").network.head
    rows = dealt.rows(torch.cat([part for group in block for part in (group.members, group.others)]))
    patients, labels, inputs = dealt.patients[rows], dealt.labels[rows], inputs_of_deal(scene, dealt)[rows]
    training, sure = scene.training, []
    kind = {"precision": training.precision, "loss": training.loss}
    known = [torch.isin(patients, group.members) for group in block]
    rate = memorising_rate(start, inputs=inputs[known[0]], labels=labels[known[0]], **kind)
    for done, own in enumerate(known, start=1):
        head = learn_by_heart(start, inputs=inputs[own], labels=labels[own], rate=rate, **kind)
        sure.append(confidence_of(head, inputs, labels))
        advance(done, len(block))
    confidences = torch.stack(sure)
    population = torch.isin(patients, torch.cat([group.others for group in block]))
    return joined([_attack(confidences, patients, population, group, number) for number, group in enumerate(block)])


def _attack(confidences: Tensor, patients: Tensor, population: Tensor, group: Group, number: int) -> Scores:
    """Attack model `number` of a block; confidences (models, images), population (images,) bool: learned by nobody."""
    asked = torch.isin(patients, torch.cat([group.members, group.others]))
    references = confidences[torch.arange(len(confidences)) != number]
    target, apart = confidences[number, asked], references[:, asked]
    robust = rmia(
        target,
        apart,
        population_target=confidences[number, population],
        population_references=references[:, population],
        out=torch.ones(len(references), int(population.sum()), dtype=torch.bool),
    )
    occurring = torch.unique(patients[asked])
    return Scores(
        member=torch.isin(occurring, group.members),
        lira=by_patient(lira(target, apart), patients[asked]),
        rmia=by_patient(robust, patients[asked]),
    )


def _by_class(images: ImageSet) -> list[Tensor]:
    """Patients of each class, by their first image; all together where the class is a pixel's."""
    count, classes = len(images.patient_ids), learned_at_once(images)
    if images.masks:
        return [torch.arange(count)]
    first = torch.full((count,), len(images)).scatter_reduce(0, images.patients, torch.arange(len(images)), "amin")
    return [(images.labels[first] == label).nonzero()[:, 0] for label in range(classes)]
