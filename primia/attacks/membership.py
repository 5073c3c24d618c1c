"""Membership inference: whom was the released model trained on? Realistic, from its confidence alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from primia.attacks.blind import blind_attack, describe
from primia.attacks.budget import Budget
from primia.attacks.contract import Advance, Outcome, Part, Trials
from primia.attacks.membership_by_heart import PATIENTS, attack_block, blocks_by_heart
from primia.attacks.membership_deal import deal, require_enough
from primia.attacks.membership_models import (
    attack_target,
    attack_undefended,
    folds_of,
    scores_of,
    train_reference,
    unseen_scores,
)
from primia.attacks.membership_scores import Scores, joined
from primia.attacks.roc import Roc, caught, false_positive_interval, let_through, operating_rate
from primia.attacks.scene import Scene
from primia.privacy.curve import privacy_curve

SHIFTED = 0.001  # p-value at which images alone tell members from others


@dataclass(frozen=True)
class MembershipInference:
    """The attacker names patients on whom a model was trained, at a rate of false alarms that is fixed beforehand.

    A patient's score is the mean over its images of LiRA's (offline, fixed variance), which compares the model's
    confidence with that of reference models. Those the attacker trains on random halves of its own patients, from the
    same first weights, by the code and with the settings of the hospitals, once with noise and once without, and takes
    those that resemble the attacked model (`scores_of`). LiRA decides; RMIA is reported beside it.

    Each trial is a member; it is told if it scores above all but k of the n others. k depends on n alone
    (`operating_rate`), so nothing is chosen by the scores. The false-positive rate F of that threshold is not k/n but
    random: at most the upper end u of the exact interval, with the confidence asked for. Privacy bounds the power of
    any test by a growing function of F, `PrivacyCurve.most_likely`; the bound is its value at u. So an honest release,
    however leaky, fails only if F exceeds u or the members' interval misses their true rate, each of which happens once
    in 2000 runs at a confidence of 99.9 % if members are recognised independently of each other. They share a model and
    a threshold, and in fact are so only given these: the intervals say how the attacked models treat patients, not how
    another training would, and a training that now and then betrays everybody fails as often as it does so.

    With `Scene.membership` the released model is attacked. Without, candidates stand in for the hospitals' patients:
    models are trained on them as a hospital on its own would, and attacked. Their mean and deviation are the released
    ones, so the bound is then that of the training alone.

    Positive control: the undefended counterpart of what is attacked, trained once more by the same code on as many
    patients for as many steps without noise, and attacked by the same attacker with the same reference models
    (`attack_undefended`, `train_as_declared`). Where it does not lie above the bound, the attack proves nothing.
    Negative control: one reference model is attacked with the others; which of a member and an other scores higher is
    then a fair coin. If a classifier that sees images but no model tells members from others, their split is shifted,
    and nothing follows from the scores. That the attack's code works is shown apart, by models that know one patient of
    each class by heart; no verdict rests on them.

    Facts: mode, `released` or `stand-in`; members and others, patients asked about; models, that were attacked;
    references, for each of them; references_without_noise, whether those were taken, by model; reference_patients, whom
    each was trained on; reference_rounds of rounds, for how long; false_positive_rate, aimed at; passing, k;
    false_positive_high, u; recognised, members by attacked model; lira and rmia, as in `Roc.to_json`; undefended, the
    same of the positive control, with the patients whom each model was trained on and rounds; works, with members,
    others, recognised, lira and rmia of the models that know patients by heart (both null without privacy); unseen_auc,
    of the negative control; blind_auc and blind_p, of the classifier; roc, corners of LiRA's curves, each with model
    (`attacked`, `without noise` or `known by heart`), fpr and tpr.
    """

    round: str = "released"

    name = "membership"
    version = 2
    tier = "realistic"

    def trials(self, budget: Budget) -> int:
        """Patients known by heart; a larger budget buys more reference models, not more patients."""
        del budget
        return PATIENTS

    def parts(self, scene: Scene) -> int:
        """Reference models and attacked models, with and without noise, models by heart, and the classifier."""
        require_enough(scene)
        return len(_plan(scene))

    def part(self, scene: Scene, index: int, advance: Advance) -> Part:
        """Train one model and ask it about all patients, or several small models that know some by heart."""
        kind, fold, number = _plan(scene)[index]
        match kind:
            case "reference" | "undefended reference":
                return train_reference(scene, fold, number, advance, defended=kind == "reference")
            case "attacked":
                return attack_target(scene, fold, advance)
            case "undefended":
                return attack_undefended(scene, fold, advance)
            case "by heart":
                return Part({}, vars(attack_block(scene, blocks_by_heart(scene)[number], advance)))
            case _:
                return _blind(scene)

    def gather(self, scene: Scene, parts: Sequence[Part]) -> Outcome:
        """Score all patients, set the threshold, and count."""
        declared, confidence = scene.declared, scene.settings.confidence
        done: dict[str, list[Part]] = {}
        for (kind, _, _), part in zip(_plan(scene), parts, strict=True):
            done.setdefault(kind, []).append(part)
        sets = [done[kind] for kind in ("reference", "undefended reference") if kind in done]
        attacked, taken = scores_of(scene, done["attacked"], sets)
        unseen = unseen_scores(scene, done["reference"])
        others = sum(int((~scores.member).sum()) for scores in attacked)
        rate = operating_rate(others)
        passing = let_through(rate, others)
        _, high = false_positive_interval(passing, others, confidence=confidence)
        trials = _told(attacked, rate)
        facts: dict[str, Any] = {
            "mode": "stand-in" if scene.membership is None else "released",
            "members": trials.total,
            "others": others,
            "models": len(attacked),
            "references": scene.budget.references,
            "references_without_noise": [bool(which) or declared is None for which in taken],
            **_values(done["reference"][0], "reference_patients", "reference_rounds", "rounds"),
            "false_positive_rate": rate,
            "passing": passing,
            "false_positive_high": high,
            "recognised": _recognised(attacked, rate),
            **_figures(attacked, confidence),
            "undefended": None,
            "works": None,
            "unseen_auc": _roc([unseen], "lira", confidence).area()[0],
            **_values(done["blind"][0], "blind_auc", "blind_p"),
            "roc": _points(attacked, "attacked", confidence),
        }
        positive, bound = trials, None
        if declared is not None:
            undefended, _ = scores_of(scene, done["undefended"], sets)
            by_heart = [Scores(**part.arrays) for part in done["by heart"]]
            positive = _told(undefended, rate)
            facts["undefended"] = {
                **_control(undefended, rate, confidence),
                **_values(done["undefended"][0], "patients", "rounds"),
            }
            facts["works"] = _control([joined(by_heart)], rate, confidence)
            facts["roc"] += _points(undefended, "without noise", confidence)
            facts["roc"] += _points(by_heart, "known by heart", confidence)
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
            # Beyond what false alarms may explain; the bound is never lower.
            convincing=high,
            unconvincing=_unconvincing(facts, positive, confidence),
            limits=_limits(facts),
            doubts=_doubts(facts),
            facts=facts,
        )


def _plan(scene: Scene) -> list[tuple[str, int, int]]:
    """What each part does: its kind, the attacked model it belongs to, and its number among its like."""
    folds, references = range(folds_of(scene)), range(scene.budget.references)
    plan = [("attacked", fold, 0) for fold in folds]
    plan += [("reference", fold, number) for fold in folds for number in references]
    if scene.declared is not None:
        plan += [("undefended", fold, 0) for fold in folds]
        plan += [("undefended reference", fold, number) for fold in folds for number in references]
        plan += [("by heart", 0, number) for number in range(len(blocks_by_heart(scene)))]
    return [*plan, ("blind", 0, 0)]


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


def _values(part: Part, *names: str) -> dict[str, Any]:
    return {name: part.values[name] for name in names}


def _roc(models: Sequence[Scores], attack: str, confidence: float) -> Roc:
    scores = joined(models)
    values = getattr(scores, attack)
    return Roc(values[scores.member].numpy(), values[~scores.member].numpy(), confidence)


def _figures(models: Sequence[Scores], confidence: float) -> dict[str, Any]:
    return {attack: _roc(models, attack, confidence).to_json() for attack in ("lira", "rmia")}


def _control(models: Sequence[Scores], rate: float, confidence: float) -> dict[str, Any]:
    member = joined(models).member
    asked = {"members": int(member.sum()), "others": int((~member).sum()), "recognised": _recognised(models, rate)}
    return asked | _figures(models, confidence)


def _points(models: Sequence[Scores], model: str, confidence: float) -> list[dict[str, Any]]:
    fpr, tpr = _roc(models, "lira", confidence).curve()
    return [{"model": model, "fpr": x, "tpr": y} for x, y in zip(fpr.tolist(), tpr.tolist(), strict=True)]


def _recognised(models: Sequence[Scores], rate: float) -> list[int]:
    """Members above the one threshold for all models, by model."""
    scores = joined(models)
    others = scores.lira[~scores.member].numpy()
    passing = let_through(rate, len(others))
    return [caught(each.lira[each.member].numpy(), others, passing=passing) for each in models]


def _told(models: Sequence[Scores], rate: float) -> Trials:
    members = int(joined(models).member.sum())
    others = int((~joined(models).member).sum())
    return Trials(sum(_recognised(models, rate)), members, (let_through(rate, others) + 1) / (others + 1))


def _pairs(scores: Scores) -> Trials:
    """A member and an other at a time, each in one pair: how often the member scores higher."""
    members, others = scores.lira[scores.member], scores.lira[~scores.member]
    pairs = min(len(members), len(others))
    return Trials(int((members[:pairs] > others[:pairs]).sum()), pairs, 0.5)


def _unconvincing(facts: Mapping[str, Any], positive: Trials, confidence: float) -> str:
    """What a control below the bound means."""
    works, undefended = facts["works"], facts["undefended"]
    if works is None:
        return ""
    if positive.interval(confidence)[0] < facts["false_positive_high"]:
        meaning = "this training memorises too little for this attack"
    else:
        meaning = "this training memorises too little for this attack to tell it from what the declared privacy allows"
    way_out = "No budget would change that: this attack decides at a smaller privacy.target_epsilon, if at all."
    if undefended["rounds"] < facts["rounds"]:
        meaning += f" in the {undefended['rounds']} of {facts['rounds']} rounds that this budget affords"
        way_out = "A larger attack.budget trains for more of them."
    by_heart = Trials(sum(works["recognised"]), works["members"], positive.chance)
    able = by_heart.interval(confidence)[0] > facts["false_positive_high"]
    return (
        f"{meaning}. The attack's code {'works' if able else 'may be broken, too'}: of patients whom models know by "
        f"heart it recognised {by_heart.successes} of {by_heart.total}. {way_out}"
    )


def _limits(facts: Mapping[str, Any]) -> tuple[str, ...]:
    limits = [
        "It counts an attacker who has the model's confidence and few models of its own; others may do better. "
        "The interval is that of the models attacked; another training may betray more."
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
