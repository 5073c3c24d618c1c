"""What a transcript with canaries shows of clipping, sampling and accounting, beside what was declared.

What it shows of noise: `primia.attacks.noise_record`.
"""

import math

import torch

from primia.attacks.audit_bounds import least_separation, separation_of
from primia.attacks.contract import Check
from primia.attacks.noise_record import FALSE_ALARM, ROUNDING, SKEW
from primia.attacks.scene import Declared

_SHORT = 0.01  # by so much bfloat16 may leave a clipped gradient short of the clip norm
_ACCOUNTS = 0.01  # by so much accountants may differ


def signal_check(scores: torch.Tensor, *, declared: Declared, steps: int) -> Check:
    """Mean length that `steps` gave the canaries that took part, over the declared one; scores are (inserted,)."""
    from scipy.stats import binom, norm

    inserted, rate = len(scores), declared.sampling_rate
    expected = inserted * steps * rate
    noise = float(norm.isf(FALSE_ALARM / 4)) * declared.noise_seen * math.sqrt(inserted * steps)
    fewest, most = (float(q) for q in binom.ppf([FALSE_ALARM / 4, 1 - FALSE_ALARM / 4], inserted * steps, rate))
    value = float(scores.sum()) / expected
    return Check(
        name="signal",
        value=value,
        low=(fewest - noise) / expected - _SHORT,
        high=(most + noise) / expected + ROUNDING,
        broken=f"The canaries' gradients add up to {value:.3g} times what the declared clip norm and sampling rate "
        "give: clipping is skipped, wrong, or by image instead of patient, or patients take part at another rate.",
    )


def sampling_checks(scores: torch.Tensor, *, declared: Declared, steps: int) -> tuple[Check, ...]:
    """Whether canaries take part at the declared rate and by the toss of a coin, counted without noise.

    `scores` are (inserted,). Drawn without replacement, as a shuffled loader draws, nearly all would take part equally
    often; the number that takes part exactly as often as is likeliest is binomial, too. And nobody's taking part tells
    of another's.
    """
    from scipy.stats import binom

    took_part = scores.round()
    inserted, rate = len(scores), declared.sampling_rate
    likeliest = min(steps, math.floor((steps + 1) * rate))

    def check(name: str, count: float, total: int, chance: float, broken: str) -> Check:
        low, high = (float(q) / total for q in binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], total, chance))
        return Check(name=name, value=count / total, low=low, high=high, broken=broken)

    often = float((took_part == likeliest).sum())
    return (
        check(
            "sampling",
            float(took_part.sum()),
            inserted * steps,
            rate,
            f"Without noise, canaries took part in {float(took_part.sum()) / (inserted * steps):.3g} of the steps, "
            f"but the declared sampling rate is {rate:.3g}.",
        ),
        check(
            "independence",
            often,
            inserted,
            float(binom.pmf(likeliest, steps, rate)),
            f"Of {inserted} canaries {often:.0f} took part in exactly {likeliest} of {steps} steps, which independent "
            "draws do not do: patients are not sampled as accounted.",
        ),
        _companions(took_part, rate=rate, steps=steps),
    )


def _companions(took_part: torch.Tensor, *, rate: float, steps: int) -> Check:
    """Largest correlation of how often canaries took part with that of their neighbours, at any distance."""
    from scipy.stats import norm

    deviation = math.sqrt(steps * rate * (1 - rate))
    value, distances = 0.0, max(1, len(took_part) // 2)
    if deviation > 0:
        spectrum = torch.fft.rfft((took_part.double() - steps * rate) / deviation)
        around = torch.fft.irfft(spectrum.abs().square(), n=len(took_part))[1 : distances + 1]
        value = float(around.abs().max()) / len(took_part) ** 0.5
    return Check(
        name="companions",
        value=value,
        low=0.0,
        high=float(norm.isf(FALSE_ALARM / 2 / distances)) + SKEW,
        broken=f"How often canaries took part agrees with their neighbours' by {value:.3g} standard errors: they are "
        "drawn together, so that one tells of the other, and sampling does not hide them as accounted.",
    )


def separation_check(scores: torch.Tensor, coins: torch.Tensor, *, declared: Declared, steps: int) -> Check:
    """μ that `scores` of `steps`, (canaries,), prove under Gaussian noise, and the μ that the claimed ε stands for.

    At a threshold between the two means a Poisson sample separates less well than the Gaussian mechanism of the same
    ε, which the sample owes to its heavier tails.
    """
    mu = separation(scores, coins, declared=declared, steps=steps, confidence=1 - FALSE_ALARM)
    return Check(
        name="separation",
        value=mu,
        low=0.0,
        high=separation_of(declared.epsilon, delta=declared.delta),
        broken=f"The scores of canaries that took part and that did not lie {mu:.3g} deviations apart, further than "
        f"the claimed ε of {declared.epsilon:.3g} allows: the accounting is wrong.",
    )


def separation(
    scores: torch.Tensor, coins: torch.Tensor, *, declared: Declared, steps: int, confidence: float
) -> float:
    """Lower bound of μ at the threshold that is fixed beforehand, half of what is expected of who takes part."""
    above = scores > declared.sampling_rate * steps / 2
    return least_separation(
        caught=int(above[coins].sum()),
        inserted=int(coins.sum()),
        alarms=int(above[~coins].sum()),
        absent=int((~coins).sum()),
        confidence=confidence,
    )


def accounting_check(*, claimed: float, recomputed: float) -> Check:
    """ε of all that is declared, accounted once more, over the claimed one."""
    value = recomputed / max(claimed, 1e-9)
    return Check(
        name="accounting",
        value=value,
        low=0.0,
        high=1 / (1 - _ACCOUNTS),
        broken=f"The declared noise, sampling and steps spend ε = {recomputed:.3g}, but {claimed:.3g} is claimed.",
    )
