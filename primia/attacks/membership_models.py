"""The models of a membership attack: those attacked, their undefended counterparts, and the attacker's own for both."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from primia.attacks.contract import Advance, Part
from primia.attacks.membership_deal import Deal, deal, inputs_of_deal
from primia.attacks.membership_scores import Scores, by_patient, confidence_of, joined, lira, rmia
from primia.attacks.membership_training import affordable_rounds, rounds_of, train_as_declared
from primia.attacks.scene import Scene


def folds_of(scene: Scene) -> int:
    """How many models are attacked: the released one, or two that stand in for it."""
    return 1 if scene.membership is not None else 2


def train_reference(scene: Scene, fold: int, number: int, advance: Advance, *, defended: bool) -> Part:
    """Train one of the attacker's models on half of its patients, and ask it about everybody.

    Returns:
        Values reference_patients, reference_rounds and rounds; arrays as of `attack_target`, and out, (images,) bool,
        whether the model did not see an image of the pool.
    """
    dealt = deal(scene)
    at = dealt.folds[fold]
    # Undefended models learn the same halves.
    learned = at.half(number, scene.generator("membership", "halves", fold, number // 2))
    rows = dealt.rows(learned)
    done = affordable_rounds(scene, patients=len(learned), images=len(rows))
    generator = scene.generator("membership", "reference", fold, number)
    head = _trained(scene, dealt, rows, rounds=done, generator=generator, advance=advance, defended=defended)
    out = ~torch.isin(dealt.patients[dealt.rows(at.pool)], learned)
    return Part(
        {"reference_patients": len(learned), "reference_rounds": done, "rounds": rounds_of(scene)},
        {**_confidence(scene, dealt, fold, head), "out": out},
    )


def attack_target(scene: Scene, fold: int, advance: Advance) -> Part:
    """Ask the released model, or train one that stands in for it and ask that.

    Returns:
        Arrays asked and pool: confidence in the images asked about and in those of the attacker's pool.
    """
    dealt = deal(scene)
    if scene.membership is not None:
        return Part({}, _confidence(scene, dealt, fold, scene.model("released").network.head))
    return _target(scene, dealt, fold, advance, rounds=rounds_of(scene), defended=True)


def attack_undefended(scene: Scene, fold: int, advance: Advance) -> Part:
    """Train what is attacked once more without noise, and ask that: the positive control.

    In place of the released model one is trained on the patients of all hospitals as if they were one, not only on
    those asked about: the more patients, the less is memorised of each. Where the budget does not allow all rounds it
    has fewer, and memorises less: the control is then harder to meet, never easier.

    Returns:
        Values patients and rounds of its training; arrays as of `attack_target`.
    """
    dealt = deal(scene)
    if scene.membership is None:
        learned = dealt.folds[fold].members
        rounds = affordable_rounds(scene, patients=len(learned), images=len(dealt.rows(learned)))
        part = _target(scene, dealt, fold, advance, rounds=rounds, defended=False)
        return Part({"patients": len(learned), "rounds": rounds}, part.arrays)
    patients, rows = len(dealt.learned), dealt.rows(dealt.learned)
    rounds = affordable_rounds(scene, patients=patients, images=len(rows))
    generator = scene.generator("membership", "undefended")
    head = _trained(scene, dealt, rows, rounds=rounds, generator=generator, advance=advance, defended=False)
    return Part({"patients": patients, "rounds": rounds}, _confidence(scene, dealt, fold, head))


def scores_of(scene: Scene, targets: Sequence[Part], sets: Sequence[Sequence[Part]]) -> tuple[list[Scores], list[int]]:
    """Attack some models with the reference models that resemble them.

    A release whose noise is missing or small is hidden by the noise of reference models, and one with much noise is
    unlike models without. So the attacker has both, and takes those from whose mean confidence the attacked model's
    varies least on its own patients. None of them was trained on or is asked about, so the choice favours nobody.

    Args:
        scene: of the attack.
        targets: attacked models, one per fold.
        sets: of reference models, each fold after fold.

    Returns:
        Scores of everybody asked about, and the number of the set that was taken, by attacked model.
    """
    dealt, scores, taken = deal(scene), [], []
    for fold, target in enumerate(targets):
        own = [_of_fold(scene, references, fold) for references in sets]
        misfits = [_misfit(target.arrays["pool"], references) for references in own]
        taken.append(misfits.index(min(misfits)))
        scores.append(_score(dealt, fold, target.arrays, own[taken[-1]]))
    return scores, taken


def unseen_scores(scene: Scene, references: Sequence[Part]) -> Scores:
    """Scores of everybody asked about, of one reference model each, which saw none of them."""
    dealt, scores = deal(scene), []
    for fold in range(folds_of(scene)):
        *others, target = _of_fold(scene, references, fold)
        scores.append(_score(dealt, fold, target.arrays, others))
    return joined(scores)


def _misfit(target: Tensor, references: Sequence[Part]) -> float:
    """Variance over the pool of what the target's confidence has beyond that of models that did not see an image."""
    pool, out = (torch.stack([part.arrays[name] for part in references]) for name in ("pool", "out"))
    return float((target - torch.where(out, pool, 0).sum(0) / out.sum(0)).var())


def _of_fold(scene: Scene, references: Sequence[Part], fold: int) -> Sequence[Part]:
    count = scene.budget.references
    return references[fold * count : (fold + 1) * count]


def _target(scene: Scene, dealt: Deal, fold: int, advance: Advance, *, rounds: int, defended: bool) -> Part:
    rows = dealt.rows(dealt.folds[fold].members)
    generator = scene.generator("membership", "stand-in", fold)
    head = _trained(scene, dealt, rows, rounds=rounds, generator=generator, advance=advance, defended=defended)
    return Part({}, _confidence(scene, dealt, fold, head))


def _trained(
    scene: Scene,
    dealt: Deal,
    rows: Tensor,
    *,
    rounds: int,
    generator: torch.Generator,
    advance: Advance,
    defended: bool,
) -> nn.Module:
    """A head trained on some images of the deal."""
    return train_as_declared(
        scene,
        inputs=inputs_of_deal(scene, dealt)[rows],
        labels=dealt.labels[rows],
        patients=dealt.patients[rows],
        rounds=rounds,
        generator=generator,
        advance=advance,
        defended=defended,
    )


def _confidence(scene: Scene, dealt: Deal, fold: int, head: nn.Module) -> dict[str, Tensor]:
    """Confidence of a model in the images asked about and in those of the attacker's pool."""
    inputs, at = inputs_of_deal(scene, dealt), dealt.folds[fold]
    chosen = {"asked": dealt.rows(at.asked), "pool": dealt.rows(at.pool)}
    return {name: confidence_of(head, inputs[rows], dealt.labels[rows]) for name, rows in chosen.items()}


def _score(dealt: Deal, fold: int, target: Mapping[str, Tensor], references: Sequence[Part]) -> Scores:
    asked, pool, out = (torch.stack([part.arrays[name] for part in references]) for name in ("asked", "pool", "out"))
    patients = dealt.patients[dealt.rows(dealt.folds[fold].asked)]
    robust = rmia(target["asked"], asked, population_target=target["pool"], population_references=pool, out=out)
    return Scores(
        member=torch.isin(torch.unique(patients), dealt.folds[fold].members),
        lira=by_patient(lira(target["asked"], asked), patients),
        rmia=by_patient(robust, patients),
    )
