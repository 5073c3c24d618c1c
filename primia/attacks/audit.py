"""The audit of privacy in one training run: canaries that were in or out by a coin's toss, and guesses about them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from primia.attacks.audit_bounds import audited_epsilon
from primia.attacks.audit_checks import (
    accounting_check,
    sampling_checks,
    separation,
    separation_check,
    signal_check,
)
from primia.attacks.audit_plan import CONVINCING, Plan, of_steps, plan, steps_within
from primia.attacks.budget import Budget
from primia.attacks.canaries import Transcript, observe
from primia.attacks.contract import Advance, Check, Outcome, Part, Trials
from primia.attacks.scene import Declared, Scene
from primia.privacy.accounting import epsilon_of, quick_epsilon
from primia.privacy.gaussian import gaussian_epsilon

_BLIND = (
    "So few guesses would not even find out a release without noise: they prove nothing. A larger attack.budget has "
    "more canaries."
)
CURVE = (0.25, 0.5, 1.0, 2.0, 4.0)  # times the declared noise
_USUAL = 0.95  # confidence that audits are compared at
# What an audit without declared privacy is of: one step with everybody, nothing clipped and no noise.
_NONE = Declared(
    clip_norm=math.inf,
    noise_multiplier=0.0,
    noise_seen=0.0,
    sampling_rate=1.0,
    steps=1,
    steps_per_round=1,
    views=1,
    learning_rate=1.0,
    expected_batch=1.0,
    statistics_noise=0.0,
    delta=0.0,
    epsilon=math.inf,
)


@dataclass(frozen=True)
class OneRunAudit:
    """The audit of Steinke, Nasr & Jagielski 2023 ("Privacy auditing with one (1) training run", algorithm 1).

    Canaries are thrown in or left out by fair coins, the site's own training code runs once, and the attacker, who
    sees the weights before and after every round, says of those with the highest scores that they were in.

    The guesses that decide are about the first steps, as many as they can resolve (`plan`): over a whole training at
    ε = 8 not even 10,000 right guesses out of 10,000 would exceed what is allowed. They are held against the bound
    that the privacy curve sets (`too_many_right`). The whole transcript is held against the declared noise, clip norm,
    sampling and ε by checks.

    Facts:
        canaries, guesses, delta: of the audit; every ε is given at `delta`.
        steps, right, epsilon: steps that the guesses are about, right guesses, and ε accounted for these steps.
        epsilon_lower, epsilon_lower_confident: proved by the right guesses (theorem 5.2) at 95 % and at the report's
            confidence, one-sided like all lower bounds; 0 where δ times canaries is not far below the chance of error.
        ceiling: `epsilon_lower` if all guesses were right.
        mu_lower, epsilon_gaussian: μ and ε at 95 %, if noise is Gaussian and canaries are independent: sharper.
        noise_found: largest share of the declared noise that the guesses alone would probably find out.
        whole: `steps` to `epsilon_gaussian` once more, of all audited steps.
        claimed, recomputed: ε of statistics and training, as claimed and by two accountants.
        curve: the same as in `whole` for several noise_multiplier.

    Pictures: `scores_in` and `scores_out`, lengths of the canaries' gradients over the whole transcript, in clip norms.
    """

    round: str = "released"
    name: str = "one_run_audit"
    version: int = 2
    tier: str = "worst case"

    def trials(self, budget: Budget) -> int:
        """Canaries; the guesses are about the clearest of them."""
        return budget.canaries

    def parts(self, scene: Scene) -> int:
        """Two controls; with declared privacy also the transcript, the accounts and each point of the curve."""
        return len(self._work(scene))

    def part(self, scene: Scene, index: int, advance: Advance) -> Part:
        """One of them."""
        return self._work(scene)[index](scene, advance)

    def gather(self, scene: Scene, parts: Sequence[Part]) -> Outcome:
        """Guesses, checks and facts."""
        declared, undefended = scene.declared, parts[0]
        positive, negative = _trials(undefended), _trials(parts[1])
        deed, cases = "was right that a canary had taken part", "guesses"
        if declared is None:
            return Outcome(deed, cases, positive, None, "", positive, negative, CONVINCING)
        transcript, accounts = parts[2].values, parts[3].values
        first, whole = ({**transcript[key], **accounts[key]} for key in ("first", "whole"))
        return Outcome(
            deed=deed,
            cases=cases,
            trials=_trials(parts[2]),
            bound=transcript["bound"],
            promise=f"The declared privacy of {_first(first['steps'])}",
            positive=positive,
            negative=negative,
            convincing=CONVINCING,
            checks=(
                *(Check(**check) for check in (*transcript["checks"], *undefended.values["checks"])),
                accounting_check(claimed=declared.epsilon, recomputed=accounts["recomputed"]),
            ),
            doubts=() if transcript["noise_found"] > 0 else (_BLIND,),
            limits=_limits(first, whole, declared, noise_found=transcript["noise_found"]),
            facts={
                "canaries": scene.budget.canaries,
                "guesses": transcript["guesses"],
                "delta": declared.delta,
                **first,
                "noise_found": transcript["noise_found"],
                "whole": whole,
                "claimed": declared.epsilon,
                "recomputed": accounts["recomputed"],
                "curve": [dict(point.values) for point in parts[4:]],
            },
            pictures=parts[2].arrays,
        )

    def _work(self, scene: Scene) -> tuple[Callable[[Scene, Advance], Part], ...]:
        controls = (self._undefended, self._nobody)
        if scene.declared is None:
            return controls
        return *controls, self._transcript, self._accounts, *(partial(self._point, factor=factor) for factor in CURVE)

    def _transcript(self, scene: Scene, advance: Advance) -> Part:
        declared, planned, coins = _terms(scene), self._plan(scene), _coins(scene)
        seen = self._observe(scene, declared, planned, coins, planned.calls, advance)
        first, whole = seen.scores[0], seen.scores.sum(dim=0)
        steps = sum(planned.calls)
        checks = [
            *seen.noise.checks(),
            signal_check(whole[coins], declared=declared, steps=steps),
            separation_check(whole, coins, declared=declared, steps=steps),
        ]
        values = {
            **_guessed(first, coins, planned),
            "bound": planned.bound,
            "noise_found": planned.noise_found,
            "first": _audited(scene, declared, first, coins, planned, steps=planned.steps),
            "whole": _audited(scene, declared, whole, coins, planned, steps=steps),
            "checks": [asdict(check) for check in checks],
        }
        return Part(values, {"scores_in": whole[coins].float(), "scores_out": whole[~coins].float()})

    def _undefended(self, scene: Scene, advance: Advance) -> Part:
        """Where the attacker must succeed; without noise it also shows who was drawn."""
        declared, planned, coins = _terms(scene), self._plan(scene), _coins(scene)
        seen = self._observe(scene, _undefended(scene, declared), planned, coins, planned.calls, advance)
        checks = sampling_checks(seen.scores.sum(dim=0)[coins], declared=declared, steps=sum(planned.calls))
        return Part({**_guessed(seen.scores[0], coins, planned), "checks": [asdict(check) for check in checks]})

    def _nobody(self, scene: Scene, advance: Advance) -> Part:
        """Coins are tossed, and no canary is ever trained on."""
        planned, coins = self._plan(scene), _coins(scene)
        nobody = torch.zeros_like(coins)
        seen = self._observe(scene, _terms(scene), planned, nobody, planned.calls[:1], advance)
        return Part(_guessed(seen.scores[0], coins, planned))

    def _accounts(self, scene: Scene, advance: Advance) -> Part:
        declared, planned = _terms(scene), self._plan(scene)
        values: dict[str, Any] = {"recomputed": epsilon_of(declared.everything(), delta=declared.delta)}
        for key, steps in (("first", planned.steps), ("whole", sum(planned.calls))):
            values[key] = {"epsilon": quick_epsilon(of_steps(declared, steps), delta=declared.delta)}
        advance(1, 1)
        return Part(values)

    def _point(self, scene: Scene, advance: Advance, *, factor: float) -> Part:
        """Of the curve, with the port alone: the picture is of what an audit can see, and not of the model."""
        declared, planned, coins = _terms(scene), self._plan(scene), _coins(scene)
        terms = replace(
            declared, noise_multiplier=factor * declared.noise_multiplier, noise_seen=factor * declared.noise_seen
        )
        steps = sum(planned.calls)
        seen = observe(scene, nn.Identity(), classes=2, terms=terms, coins=coins, calls=(steps,))
        audited = _audited(scene, terms, seen.scores[0], coins, planned, steps=steps)
        accounted = quick_epsilon(of_steps(terms, steps), delta=terms.delta)
        advance(1, 1)
        return Part({"noise_multiplier": terms.noise_multiplier, "epsilon": accounted, **audited})

    def _observe(
        self, scene: Scene, terms: Declared, planned: Plan, coins: Tensor, calls: Sequence[int], advance: Advance
    ) -> Transcript:
        model = scene.model(self.round)
        return observe(
            scene,
            model.network.head,
            classes=len(model.classes),
            terms=terms,
            coins=coins,
            calls=calls,
            on_call=lambda done: advance(done, sum(calls)),
        )

    def _plan(self, scene: Scene) -> Plan:
        declared, canaries = scene.declared, scene.budget.canaries
        if declared is None:
            return Plan(steps=1, rounds=(), guesses=math.ceil(canaries / 10), bound=1.0, noise_found=0.0)
        model = {"first": scene.first, "released": scene.released}[self.round]
        weights = sum(weight.numel() for weight in model.network.head.parameters()) + canaries * len(model.classes)
        return plan(
            declared,
            canaries=canaries,
            confidence=scene.settings.confidence,
            steps=steps_within(canaries, weights=weights, steps=declared.steps),
        )


def _terms(scene: Scene) -> Declared:
    return _NONE if scene.declared is None else scene.declared


def _undefended(scene: Scene, declared: Declared) -> Declared:
    clip_norm, noise_multiplier = scene.undefended()
    return replace(declared, clip_norm=clip_norm, noise_multiplier=noise_multiplier, noise_seen=noise_multiplier)


def _coins(scene: Scene) -> Tensor:
    """Which canaries take part, (canaries,) bool."""
    return torch.randint(2, (scene.budget.canaries,), generator=scene.generator("audit", "coins")).bool()


def _guessed(scores: Tensor, coins: Tensor, planned: Plan) -> dict[str, int]:
    return {"right": int(coins[scores.topk(planned.guesses).indices].sum()), "guesses": planned.guesses}


def _trials(part: Part) -> Trials:
    return Trials(part.values["right"], part.values["guesses"], 0.5)


def _audited(
    scene: Scene, terms: Declared, scores: Tensor, coins: Tensor, planned: Plan, *, steps: int
) -> dict[str, float]:
    """What the guesses prove by theorem 5.2, what they could if all were right, and what a threshold proves."""
    right = _guessed(scores, coins, planned)["right"]
    mu = separation(scores, coins, declared=terms, steps=steps, confidence=_USUAL)

    def proved(right: int, confidence: float) -> float:
        return audited_epsilon(
            canaries=len(coins), guesses=planned.guesses, right=right, delta=terms.delta, confidence=confidence
        )

    return {
        "steps": steps,
        "right": right,
        "epsilon_lower": proved(right, _USUAL),
        "epsilon_lower_confident": proved(right, scene.settings.confidence),
        "ceiling": proved(planned.guesses, _USUAL),
        "mu_lower": mu,
        "epsilon_gaussian": gaussian_epsilon(mu, delta=terms.delta) if mu > 0 else 0.0,
    }


def _first(steps: int) -> str:
    return "the first step" if steps == 1 else f"the first {steps} steps"


def _limits(first: dict[str, Any], whole: dict[str, Any], declared: Declared, *, noise_found: float) -> tuple[str, ...]:
    audited = (
        f"At 95 % it proves ε ≥ {first['epsilon_lower']:.2f} of {first['epsilon']:.2f} accounted for "
        f"{_first(first['steps'])}, and ε ≥ {whole['epsilon_lower']:.2f} of {whole['epsilon']:.2f} for "
        f"{_first(whole['steps'])}; with all guesses right it could prove no more than {first['ceiling']:.2f}. "
        f"The guesses alone find out a release with less than {noise_found:.0%} of its noise, what is missing beyond "
        "that only the checks on the noise itself."
    )
    if whole["steps"] == declared.steps:
        return (audited,)
    return audited, f"Only these of {declared.steps} steps were audited; a larger budget audits more."
