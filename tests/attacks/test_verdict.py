import dataclasses
import math

import pytest

from primia.attacks.contract import Controls, ReleaseCheck, Trials, Verdict
from primia.attacks.verdict import judge

CHANCE = 1 / 64
SOUND = Controls(positive=Trials(200, 200, CHANCE), negative=Trials(3, 200, CHANCE))
HONEST = ReleaseCheck(longest=1.0, noise=1.0, noise_error=1e-3)


def verdict_of(successes, *, controls=SOUND, check=HONEST, bound=0.1243):
    return judge(Trials(successes, 200, CHANCE), controls, bound=bound, check=check, confidence=0.95)


def test_a_rate_within_the_bound_passes_and_says_what_it_does_not_cover():
    verdict, reason = verdict_of(9)
    assert verdict is Verdict.PASS
    assert reason == (
        "The attacker named the right patient in 9 of 200 updates (4.5%, 95% interval 2.1% to 8.4%, blind guessing "
        "1.6%). The declared privacy of one step allows 12.4%, and the lower end does not exceed it; without noise and "
        "clipping it was right in 200 of 200. This holds for this attack on single steps, not for the whole training "
        "or for other attacks."
    )


def test_the_lower_end_decides_and_not_the_rate():
    # Exact lower ends: 34 of 200 is 12.07 %, 35 of 200 is 12.51 %.
    assert verdict_of(34)[0] is Verdict.PASS
    assert verdict_of(35)[0] is Verdict.FAIL


def test_without_privacy_nothing_passes():
    verdict, reason = verdict_of(0, bound=None, check=None)
    assert verdict is Verdict.FAIL
    assert "without differential privacy" in reason


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"longest": 1.01}, "clip norm"),
        ({"longest": math.nan}, "clip norm"),
        ({"noise": 0.99}, "too small"),
        ({"noise": math.nan}, "too small"),
        ({"noise": 1.01}, "longer"),
    ],
)
def test_a_release_that_is_not_the_accounted_one_fails_even_if_the_attacker_does(broken, word):
    verdict, reason = verdict_of(3, check=dataclasses.replace(HONEST, **broken))
    assert verdict is Verdict.FAIL
    assert word in reason


def test_a_weak_attacker_proves_nothing():
    # Exact lower end of 188 of 200 is 89.8 %, of 189 it is 90.4 %.
    weak, enough = (Controls(Trials(hits, 200, CHANCE), SOUND.negative) for hits in (188, 189))
    assert verdict_of(3, controls=weak)[0] is Verdict.INCONCLUSIVE
    assert verdict_of(3, controls=enough)[0] is Verdict.PASS


def test_a_weak_attacker_that_still_beats_the_bound_is_a_failure_of_the_release():
    weak = Controls(Trials(100, 200, CHANCE), SOUND.negative)
    assert verdict_of(100, controls=weak)[0] is Verdict.FAIL


def test_trials_that_leak_the_answer_prove_nothing_either_way():
    leaking = Controls(SOUND.positive, Trials(20, 200, CHANCE))
    for successes in (3, 150):
        verdict, reason = verdict_of(successes, controls=leaking)
        assert verdict is Verdict.INCONCLUSIVE
        assert "pure noise" in reason


def test_a_bound_that_allows_nearly_everything_is_called_hardly_any_protection():
    assert "hardly any protection" in verdict_of(150, bound=0.967)[1]
    assert "hardly any protection" not in verdict_of(9)[1]


def test_updates_that_never_reach_the_clip_norm_do_not_count_as_a_test_of_clipping():
    short = dataclasses.replace(HONEST, longest=0.02)
    assert "the longest is 0.02 of it), so clipping was not put to the test" in verdict_of(9, check=short)[1]
    assert "not put to the test" not in verdict_of(9)[1]
