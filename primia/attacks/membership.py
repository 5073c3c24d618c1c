"""Membership inference: whom was the released model trained on? Realistic, from its confidence alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from primia.attacks.blind import blind_attack, describe
from primia.attacks.budget import Budget
from primia.attacks.contract import Advance, Outcome, Part, Trials
from primia.attacks.membership_control import PATIENTS, attack_block, control_blocks
from primia.attacks.membership_deal import Deal, deal, inputs_of_deal
from primia.attacks.membership_scores import Scores, by_patient, confidence_of, joined, lira, rmia
from primia.attacks.membership_training import affordable_rounds, rounds_of, train_as_declared
from primia.attacks.roc import Roc, caught, false_positive_interval, let_through, operating_rate
from primia.attacks.scene import Scene
from primia.privacy.curve import privacy_curve

CONVINCING = 0.5  # of patients known by heart; a broken attacker is right as often as it raises false alarms
SHIFTED = 0.001  # p-value at which images alone tell members from others


@dataclass(frozen=True)
class MembershipInference:
    """The attacker names patients on whom a model was trained, at a rate of false alarms that is fixed beforehand.

    A patient's score is the mean over its images of LiRA's (offline, fixed variance), which compares the model's
    confidence with that of reference models. Those the attacker trains on random halves of its own patients, from the
    same first weights, by the code and with the settings of the hospitals. LiRA decides; RMIA is reported beside it.

    Each trial is a member; it is told if it scores above all but k of the n others. k depends on n alone
    (`operating_rate`), so nothing is chosen by the scores. The false-positive rate F of that threshold is not k/n but
    random: at most the upper end u of the exact interval, with the confidence asked for. Privacy bounds the power of
    any test by a growing function of F, `PrivacyCurve.most_likely`; the bound is its value at u. So an honest release,
    however leaky, fails only if F exceeds u or the members' interval misses their true rate, each of which happens once
    in 2000 runs at a confidence of 99.9 %. Chance is the mean of F, (k + 1) / (n + 1).

    With `Scene.membership` the released model is attacked. Without, candidates stand in for the hospitals' patients:
    models are trained on them as a hospital on its own would, and attacked. Their mean and deviation are the released
    ones, so the bound is then that of the training alone.

    Positive control: models that know one patient of each class by heart. Negative control: one reference model is
    attacked with the others; which of a member and an other scores higher is then a fair coin. If a classifier that
    sees images but no model tells members from others, their split is shifted, and nothing follows from the scores.

    Facts: mode, `released` or `stand-in`; members and others, patients asked about; models, that were attacked;
    references, for each of them; reference_patients, whom each was trained on; reference_rounds of rounds, for how
    long; false_positive_rate, aimed at; passing, k; false_positive_high, u; lira and rmia, as in `Roc.to_json`;
    control, with members, others, lira and rmia of the models that know patients by heart (null without privacy);
    unseen_auc, of the negative control; blind_auc and blind_p, of the classifier; roc, corners of LiRA's curves, each
    with model (`attacked` or `known by heart`), fpr and tpr.
    """

    round: str = "released"

    name = "membership"
    version = 1
    tier = "realistic"

    def trials(self, budget: Budget) -> int:
        """Patients known by heart; a larger budget buys more reference models, not more patients."""
        del budget
        return PATIENTS

    def parts(self, scene: Scene) -> int:
        """Reference models, attacked models, blocks of the control, and the classifier."""
        return len(_plan(scene))

    def part(self, scene: Scene, index: int, advance: Advance) -> Part:
        """Train one model and ask it about all patients, or several small models of the control."""
        kind, fold, number = _plan(scene)[index]
        if kind == "reference":
            return _reference(scene, fold, number, advance)
        if kind == "attacked":
            return _attacked(scene, fold, advance)
        if kind == "control":
            return Part({}, vars(attack_block(scene, control_blocks(scene)[number], advance)))
        return _blind(scene)

    def gather(self, scene: Scene, parts: Sequence[Part]) -> Outcome:
        """Score all patients, set the threshold, and count."""
        declared, confidence = scene.declared, scene.settings.confidence
        done: dict[str, list[Part]] = {kind: [] for kind in ("reference", "attacked", "control", "blind")}
        for (kind, _, _), part in zip(_plan(scene), parts, strict=True):
            done[kind].append(part)
        scores, unseen = _scores(scene, done["attacked"], done["reference"])
        others = int((~scores.member).sum())
        passing = let_through(operating_rate(others), others)
        _, high = false_positive_interval(passing, others, confidence=confidence)
        facts: dict[str, Any] = {
            "mode": "stand-in" if scene.membership is None else "released",
            "members": int(scores.member.sum()),
            "others": others,
            "models": len(done["attacked"]),
            "references": scene.budget.references,
            **done["reference"][0].values,
            "false_positive_rate": operating_rate(others),
            "passing": passing,
            "false_positive_high": high,
            **_figures(scores, confidence),
            "control": None,
            "unseen_auc": _roc(unseen, "lira", confidence).area()[0],
            **done["blind"][0].values,
            "roc": _points(scores, "attacked", confidence),
        }
        trials = _told(scores, operating_rate(others))
        positive, bound = trials, None
        if declared is not None:
            known = joined([Scores(**part.arrays) for part in done["control"]])
            positive = _told(known, operating_rate(others))
            facts["control"] = {
                "members": positive.total,
                "others": int((~known.member).sum()),
                **_figures(known, confidence),
            }
            facts["roc"] += _points(known, "known by heart", confidence)
            seen = declared.training() if scene.membership is None else declared.everything()
            bound = privacy_curve(seen).most_likely(high)
        return Outcome(
            deed="recognised a patient of the training",
            cases="trials",
            trials=trials,
            bound=bound,
            promise=f"The declared privacy, at a threshold that up to {high:.1%} of others pass,",
            positive=positive,
            negative=_pairs(unseen),
            convincing=CONVINCING,
            limits=_limits(facts),
            doubts=_doubts(facts),
            facts=facts,
        )


def _plan(scene: Scene) -> list[tuple[str, int, int]]:
    """What each part does: its kind, the attacked model it belongs to, and its number among its like."""
    folds = 1 if scene.membership is not None else 2
    plan = [("reference", fold, number) for fold in range(folds) for number in range(scene.budget.references)]
    plan += [("attacked", fold, 0) for fold in range(folds)]
    if scene.declared is not None:
        plan += [("control", 0, number) for number in range(len(control_blocks(scene)))]
    return [*plan, ("blind", 0, 0)]


def _reference(scene: Scene, fold: int, number: int, advance: Advance) -> Part:
    dealt = deal(scene)
    learned = dealt.folds[fold].half(number, scene.generator("membership", "halves", fold, number // 2))
    done = affordable_rounds(scene, patients=len(learned), images=len(dealt.rows(learned)))
    head = _trained(scene, dealt, learned, rounds=done, purpose=("reference", fold, number), advance=advance)
    pool = dealt.patients[dealt.rows(dealt.folds[fold].pool)]
    return Part(
        {"reference_patients": len(learned), "reference_rounds": done, "rounds": rounds_of(scene)},
        {**_confidence(scene, dealt, fold, head), "out": ~torch.isin(pool, learned)},
    )


def _attacked(scene: Scene, fold: int, advance: Advance) -> Part:
    dealt = deal(scene)
    if scene.membership is not None:
        return Part({}, _confidence(scene, dealt, fold, scene.model("released").network.head))
    members = dealt.folds[fold].members
    head = _trained(scene, dealt, members, rounds=rounds_of(scene), purpose=("stand-in", fold), advance=advance)
    return Part({}, _confidence(scene, dealt, fold, head))


def _trained(
    scene: Scene, dealt: Deal, learned: Tensor, *, rounds: int, purpose: tuple[object, ...], advance: Advance
) -> nn.Module:
    rows = dealt.rows(learned)
    return train_as_declared(
        scene,
        inputs=inputs_of_deal(scene, dealt)[rows],
        labels=dealt.labels[rows],
        patients=dealt.patients[rows],
        rounds=rounds,
        generator=scene.generator("membership", *purpose),
        advance=advance,
    )


def _confidence(scene: Scene, dealt: Deal, fold: int, head: nn.Module) -> dict[str, Tensor]:
    """Confidence of a model in the images asked about and in those of the attacker's pool."""
    inputs, at = inputs_of_deal(scene, dealt), dealt.folds[fold]
    chosen = {"asked": dealt.rows(at.asked), "pool": dealt.rows(at.pool)}
    return {name: confidence_of(head, inputs[rows], dealt.labels[rows]) for name, rows in chosen.items()}


def _blind(scene: Scene) -> Part:
    dealt = deal(scene)
    members = torch.cat([fold.members for fold in dealt.folds])
    rows = dealt.rows(torch.cat([fold.asked for fold in dealt.folds]))
    features = describe(
        dealt.images[rows], dealt.labels[rows], dealt.patients[rows], classes=len(scene.released.classes)
    )
    member = torch.isin(torch.unique(dealt.patients[rows]), members).numpy()
    auc, p = blind_attack(features[member], features[~member], generator=scene.generator("membership", "blind"))
    return Part({"blind_auc": auc, "blind_p": p})


def _scores(scene: Scene, attacked: Sequence[Part], references: Sequence[Part]) -> tuple[Scores, Scores]:
    """Scores of all patients: of the attacked models, and of one reference model each, which saw none of them."""
    dealt, count = deal(scene), scene.budget.references
    scores, unseen = [], []
    for fold, target in enumerate(attacked):
        own = references[fold * count : (fold + 1) * count]
        scores.append(_score(dealt, fold, target.arrays, own))
        unseen.append(_score(dealt, fold, own[-1].arrays, own[:-1]))
    return joined(scores), joined(unseen)


def _score(dealt: Deal, fold: int, target: Mapping[str, Tensor], references: Sequence[Part]) -> Scores:
    asked, pool, out = (torch.stack([part.arrays[name] for part in references]) for name in ("asked", "pool", "out"))
    patients = dealt.patients[dealt.rows(dealt.folds[fold].asked)]
    robust = rmia(target["asked"], asked, population_target=target["pool"], population_references=pool, out=out)
    return Scores(
        member=torch.isin(torch.unique(patients), dealt.folds[fold].members),
        lira=by_patient(lira(target["asked"], asked), patients),
        rmia=by_patient(robust, patients),
    )


def _roc(scores: Scores, attack: str, confidence: float) -> Roc:
    values = getattr(scores, attack)
    return Roc(values[scores.member].numpy(), values[~scores.member].numpy(), confidence)


def _figures(scores: Scores, confidence: float) -> dict[str, Any]:
    return {attack: _roc(scores, attack, confidence).to_json() for attack in ("lira", "rmia")}


def _points(scores: Scores, model: str, confidence: float) -> list[dict[str, Any]]:
    fpr, tpr = _roc(scores, "lira", confidence).curve()
    return [{"model": model, "fpr": x, "tpr": y} for x, y in zip(fpr.tolist(), tpr.tolist(), strict=True)]


def _told(scores: Scores, rate: float) -> Trials:
    members, others = scores.lira[scores.member].numpy(), scores.lira[~scores.member].numpy()
    passing = let_through(rate, len(others))
    return Trials(caught(members, others, passing=passing), len(members), (passing + 1) / (len(others) + 1))


def _pairs(scores: Scores) -> Trials:
    """A member and an other at a time, each in one pair: how often the member scores higher."""
    members, others = scores.lira[scores.member], scores.lira[~scores.member]
    pairs = min(len(members), len(others))
    return Trials(int((members[:pairs] > others[:pairs]).sum()), pairs, 0.5)


def _limits(facts: Mapping[str, Any]) -> tuple[str, ...]:
    limits = [
        "It counts an attacker who has the model's confidence and few models of its own; others may do better. "
        "The control knows its patients by heart; smaller leaks may stay unseen."
    ]
    if facts["mode"] == "stand-in":
        limits.append(
            f"It was done to {facts['models']} models trained on test patients like a hospital's, "
            "not to the released one, so that no patient of a hospital is asked about."
        )
    if facts["reference_rounds"] < facts["rounds"]:
        limits.append(
            f"The attacker's models were trained for {facts['reference_rounds']} of {facts['rounds']} rounds only, "
            "which is what this budget affords."
        )
    return tuple(limits)


def _doubts(facts: Mapping[str, Any]) -> tuple[str, ...]:
    if facts["blind_p"] > SHIFTED:
        return ()
    return (
        f"Images alone, without any model, tell members from others (area under the curve {facts['blind_auc']:.2f}, "
        f"p = {facts['blind_p']:.3f}): they are not alike, so nothing follows from how a model treats them.",
    )
