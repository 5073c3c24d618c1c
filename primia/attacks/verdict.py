"""The one place where trials and controls become PASS, FAIL or INCONCLUSIVE."""

from primia.attacks.contract import Controls, ReleaseCheck, Trials, Verdict
from primia.config import CONVINCING_RATE

# A sound attacker misses its chance interval by luck; at 0.999 that happens once in a thousand reports, while
# an attacker that learns the answer by mistake is far outside.
NEGATIVE_CONFIDENCE = 0.999
WEAK_BOUND = 0.5  # above, a release may be all it promises and yet betray most patients to this attacker
ROUNDING = 1e-4  # relative, of a norm in float32
NOISE_ERRORS = 5.0  # standard errors the measured noise may be off; by luck once in two million reports


def judge(
    trials: Trials,
    controls: Controls,
    *,
    bound: float | None,
    check: ReleaseCheck | None,
    confidence: float,
) -> tuple[Verdict, str]:
    """Decide, and say why in one or two sentences with the numbers.

    Args:
        trials: the attacked release.
        controls: the same attacker where the answer is known.
        bound: largest success rate the declared privacy allows, None if none was declared.
        check: what the observed updates say about clipping and noise; required with a bound.
        confidence: of the two-sided intervals, in (0.5, 1).
    """
    low, high = trials.interval(confidence)
    found = (
        f"the attacker named the right patient in {trials.successes} of {trials.total} updates "
        f"({trials.rate:.1%}, {100 * confidence:g}% interval {low:.1%} to {high:.1%}, "
        f"blind guessing {trials.chance:.1%})"
    )
    if bound is None:
        return Verdict.FAIL, f"Training ran without differential privacy, so nothing limits this attack: {found}."
    assert check is not None
    for broken in (_broken_release(check), _above_bound(trials, controls, found, bound, low)):
        if broken:
            return Verdict.FAIL, broken
    doubt = _doubt(controls, confidence)
    if doubt:
        return Verdict.INCONCLUSIVE, doubt
    positive = controls.positive
    limits = ""
    if bound > WEAK_BOUND:
        limits += " A bound that high is hardly any protection."
    if check.longest < 1 - ROUNDING:
        limits += (
            f" No update reached the clip norm at these weights (the longest is {check.longest:.3g} of it), "
            "so clipping was not put to the test."
        )
    return Verdict.PASS, (
        f"{_capital(found)}. The declared privacy of one step allows {bound:.1%}, and the lower end does not exceed "
        f"it; without noise and clipping it was right in {positive.successes} of {positive.total}.{limits} "
        "This holds for this attack on single steps, not for the whole training or for other attacks."
    )


def _broken_release(check: ReleaseCheck) -> str | None:
    if not check.longest <= 1 + ROUNDING:  # written so that NaN is caught, too
        return (
            f"The noiseless update of one patient is {check.longest:.3g} times as long as the clip norm: "
            "clipping is skipped or wrong, so the accounted privacy does not hold."
        )
    allowed = NOISE_ERRORS * check.noise_error
    if not check.noise >= 1 - allowed:
        return (
            f"The observed updates carry {check.noise:.3g} times the declared noise: "
            "noise is missing or too small, so the accounted privacy does not hold."
        )
    if not check.noise <= 1 + allowed:
        return (
            "The observed updates are longer than clipped gradients with the declared noise "
            f"(beyond the clipped gradient they carry {check.noise:.3g} times the noise): "
            "clipping is skipped or the release is not the declared one."
        )
    return None


def _above_bound(trials: Trials, controls: Controls, found: str, bound: float, low: float) -> str | None:
    # If blind guessing succeeds too often, the trials leak the answer and their rate means nothing.
    if low <= bound or not _at_chance(controls.negative):
        return None
    return (
        f"{_capital(found)}, more than the {bound:.1%} that the declared privacy of one step allows: "
        "the release protects less than it is accounted for."
    )


def _doubt(controls: Controls, confidence: float) -> str | None:
    positive, negative = controls.positive, controls.negative
    if not _at_chance(negative):
        return (
            f"Given pure noise the attacker was right in {negative.successes} of {negative.total}, "
            f"but blind guessing is {negative.chance:.1%}: the trials are not fair, so nothing follows from them."
        )
    low, _ = positive.interval(confidence)
    if low < CONVINCING_RATE:
        return (
            f"Without noise and clipping the same attacker was right in only {positive.successes} of {positive.total} "
            f"(lower end {low:.1%}, needed {CONVINCING_RATE:.0%}): it is too weak, or the trials too few, "
            "for its failure to mean anything."
        )
    return None


def _at_chance(negative: Trials) -> bool:
    low, high = negative.interval(NEGATIVE_CONFIDENCE)
    return low <= negative.chance <= high


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
