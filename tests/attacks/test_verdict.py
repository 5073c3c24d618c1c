import math

import pytest

from primia.attacks.budget import QUICK, STANDARD
from primia.attacks.contract import Check, Outcome, Trials, Verdict
from primia.attacks.retrieval import GradientRetrieval
from primia.attacks.verdict import judge

CHANCE = 1 / 64
ATTACK = GradientRetrieval("released")
SOUND = {
    "deed": "named the right patient",
    "cases": "updates",
    "promise": "The declared privacy of one step",
    "bound": 0.1243,
    "positive": Trials(200, 200, CHANCE),
    "negative": Trials(3, 200, CHANCE),
    "convincing": 0.9,
}


def verdict_of(successes, *, budget=QUICK, total=200, **changes):
    outcome = Outcome(trials=Trials(successes, total, CHANCE), **(SOUND | changes))
    return judge(outcome, attack=ATTACK, budget=budget, confidence=0.95)


def test_a_rate_within_the_bound_passes_and_says_what_it_rests_on():
    verdict, reason = verdict_of(9)
    assert verdict is Verdict.PASS
    assert reason == (
        "The attacker named the right patient in 9 of 200 updates (4.5%, 95% interval 2.1% to 8.4%, blind guessing "
        "1.6%). The declared privacy of one step allows 12.4%, and the lower end does not exceed it; without defence "
        "it was right in 200 of 200."
    )


def test_the_lower_end_decides_and_not_the_rate():
    # Exact lower ends: 34 of 200 is 12.07 %, 35 of 200 is 12.51 %.
    assert verdict_of(34)[0] is Verdict.PASS
    assert verdict_of(35)[0] is Verdict.FAIL


def test_without_privacy_nothing_passes():
    verdict, reason = verdict_of(0, bound=None)
    assert verdict is Verdict.FAIL
    assert "without differential privacy" in reason


@pytest.mark.parametrize("value", [0.99, 1.2, math.nan, math.inf])
def test_a_figure_outside_its_range_fails_even_if_the_attacker_does(value):
    sound = Check(name="noise", value=1.0, low=0.995, high=1.005, broken="never said")
    broken = Check(name="noise", value=value, low=0.995, high=1.005, broken="noise is missing.")
    assert verdict_of(3, checks=(sound,))[0] is Verdict.PASS
    assert verdict_of(3, checks=(sound, broken)) == (Verdict.FAIL, "noise is missing.")


def test_a_weak_attacker_proves_nothing_and_the_budget_that_would_is_named():
    # Exact lower end of 188 of 200 is 89.8 %, of 189 it is 90.4 %.
    verdict, reason = verdict_of(3, positive=Trials(188, 200, CHANCE))
    assert verdict is Verdict.INCONCLUSIVE
    assert "Set attack.budget to standard: at this rate" in reason
    assert verdict_of(3, positive=Trials(189, 200, CHANCE))[0] is Verdict.PASS


def test_an_attacker_that_no_number_of_trials_helps_is_said_to_be_unfit():
    reason = verdict_of(3, positive=Trials(10, 200, CHANCE))[1]
    assert "More trials would not change that; attack.budget standard lets it try harder" in reason
    reason = verdict_of(3, positive=Trials(181, 200, CHANCE), budget=STANDARD)[1]
    assert "No budget allows the" in reason


def test_a_control_that_the_bound_would_not_have_called_broken_proves_nothing():
    assert verdict_of(100, positive=Trials(196, 200, CHANCE), bound=0.97)[0] is Verdict.INCONCLUSIVE


def test_a_weak_attacker_that_still_beats_the_bound_is_a_failure_of_the_release():
    assert verdict_of(100, positive=Trials(100, 200, CHANCE))[0] is Verdict.FAIL


def test_trials_that_leak_the_answer_prove_nothing_either_way():
    for successes in (3, 150):
        verdict, reason = verdict_of(successes, negative=Trials(20, 200, CHANCE))
        assert verdict is Verdict.INCONCLUSIVE
        assert "the trials are not fair" in reason


def test_a_doubt_about_the_trials_leaves_nothing_but_the_checks():
    doubts = ("The two groups differ without any model.",)
    for successes in (3, 150):
        assert verdict_of(successes, doubts=doubts) == (Verdict.INCONCLUSIVE, doubts[0])
    broken = Check(name="noise", value=0.1, low=0.9, high=1.1, broken="noise is missing.")
    assert verdict_of(3, doubts=doubts, checks=(broken,))[0] is Verdict.FAIL


def test_a_bound_that_allows_nearly_everything_is_called_hardly_any_protection():
    many = {"positive": Trials(2000, 2000, CHANCE)}
    assert "hardly any protection" in verdict_of(150, bound=0.967, **many)[1]
    assert "hardly any protection" not in verdict_of(9)[1]


def test_a_pass_carries_its_limits():
    assert verdict_of(9, limits=("Clipping was not put to the test.",))[1].endswith("put to the test.")
