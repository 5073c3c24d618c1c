"""The one place where trials and controls become PASS, FAIL or INCONCLUSIVE."""

from primia.attacks.bounds import trials_needed
from primia.attacks.budget import BUDGETS, Budget
from primia.attacks.contract import Attack, Outcome, Trials, Verdict

# A sound attacker misses its chance interval by luck; at 0.999 that happens once in a thousand reports, while
# an attacker that learns the answer by mistake is far outside.
NEGATIVE_CONFIDENCE = 0.999
# Of what is left above chance: beyond, a release may be all it promises and yet betray most patients to this attacker.
WEAK_BOUND = 2 / 3


def judge(outcome: Outcome, *, attack: Attack, budget: Budget, confidence: float) -> tuple[Verdict, str]:
    """Decide, and say why in a few sentences with the numbers.

    Without declared privacy nothing passes. A check outside its range, or trials whose lower end exceeds the bound, is
    a FAIL; the latter only without doubts and with the negative control at chance. INCONCLUSIVE is what proves nothing:
    a doubt, a negative control off chance, or a positive control that the same rule would not have called broken.

    Args:
        outcome: what the attack found.
        attack: whose larger budgets may be named as a way out.
        budget: that the attack had.
        confidence: of the two-sided intervals, in (0.5, 1).
    """
    found = _found(outcome, outcome.trials, confidence)
    if outcome.bound is None:
        return Verdict.FAIL, f"Training ran without differential privacy, so nothing limits this attack: {found}."
    broken = [check.broken for check in outcome.checks if not check.holds]
    low, _ = outcome.trials.interval(confidence)
    # Where there is a doubt, or blind guessing succeeds too often, the trials' rate means nothing.
    if not broken and low > outcome.bound and _at_chance(outcome.negative) and not outcome.doubts:
        broken = [
            f"{_capital(found)}, more than the {outcome.bound:.1%} that {_lower(outcome.promise)} allows: "
            "the release protects less than it is accounted for."
        ]
    if broken:
        return Verdict.FAIL, " ".join(broken)
    doubt = _doubt(outcome, confidence, attack=attack, budget=budget)
    if doubt:
        return Verdict.INCONCLUSIVE, doubt
    chance = outcome.trials.chance
    weak = (outcome.bound - chance) / (1 - chance) > WEAK_BOUND
    limits = ["A bound that high is hardly any protection."] if weak else []
    return Verdict.PASS, " ".join(
        [
            f"{_capital(found)}. {outcome.promise} allows {outcome.bound:.1%}, and the lower end does not exceed it;",
            f"without defence it was right in {outcome.positive.successes} of {outcome.positive.total}.",
            *limits,
            *outcome.limits,
        ]
    )


def _doubt(outcome: Outcome, confidence: float, *, attack: Attack, budget: Budget) -> str | None:
    positive, negative = outcome.positive, outcome.negative
    if outcome.doubts:
        return " ".join(outcome.doubts)
    if not _at_chance(negative):
        return (
            f"Where nothing can be learned the attacker was right in {negative.successes} of {negative.total}, "
            f"but blind guessing is {negative.chance:.1%}: the trials are not fair, so nothing follows from them."
        )
    assert outcome.bound is not None
    floor = max(outcome.convincing, outcome.bound)
    low, _ = positive.interval(confidence)
    if low < floor:
        meaning = outcome.unconvincing or (
            "it is too weak, or the trials too few, for its failure to mean anything. "
            f"{_way_out(positive, floor, confidence, attack=attack, budget=budget)}"
        )
        return (
            f"Without defence the same attacker was right in only {positive.successes} of {positive.total} "
            f"(lower end {low:.1%}, needed {floor:.1%}): {meaning}"
        )
    return None


def _way_out(positive: Trials, floor: float, confidence: float, *, attack: Attack, budget: Budget) -> str:
    """Which budget would resolve it."""
    names = list(BUDGETS)
    larger = [BUDGETS[name] for name in names[names.index(budget.name) + 1 :]]
    needed = trials_needed(positive.rate, floor, confidence=confidence)
    if needed is not None:
        for each in larger:
            if attack.trials(each) >= needed:
                return f"Set attack.budget to {each.name}: at this rate {needed} trials decide."
        return f"No budget allows the {needed} trials that would decide at this rate."
    if larger:
        return (
            f"More trials would not change that; attack.budget {larger[0].name} lets it try harder, and if that does "
            "not help, this attack cannot judge this network."
        )
    return "This attack cannot judge this network."


def _found(outcome: Outcome, trials: Trials, confidence: float) -> str:
    low, high = trials.interval(confidence)
    return (
        f"the attacker {outcome.deed} in {trials.successes} of {trials.total} {outcome.cases} "
        f"({trials.rate:.1%}, {100 * confidence:g}% interval {low:.1%} to {high:.1%}, "
        f"blind guessing {trials.chance:.1%})"
    )


def _at_chance(negative: Trials) -> bool:
    low, high = negative.interval(NEGATIVE_CONFIDENCE)
    return low <= negative.chance <= high


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
