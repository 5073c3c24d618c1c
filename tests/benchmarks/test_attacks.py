import dataclasses

from scenes import DECLARED, SMALL, images_of, scene_of

from benchmarks.attacks import attacked, broken
from primia.attacks.contract import Verdict
from primia.attacks.results import worst

BUDGET = dataclasses.replace(SMALL, canaries=600, retrieval_trials=80)
WATCHED = ("gradient_retrieval", "one_run_audit")


def test_a_broken_training_is_flagged_and_an_honest_one_is_not(tmp_path):
    scene = scene_of(candidates=images_of(30), budget=BUDGET)
    assert worst(attacked(scene, tmp_path / "honest", WATCHED)).verdict is not Verdict.FAIL
    for name in ("a tenth of the noise", "composition forgotten"):
        assert broken(scene, name, tmp_path / name) is Verdict.FAIL


def test_training_without_a_declared_round_is_watched_all_the_same(tmp_path):
    declared = dataclasses.replace(DECLARED, steps_per_round=1)
    scene = scene_of(candidates=images_of(30), budget=BUDGET, declared=declared)
    assert broken(scene, "clipping skipped", tmp_path) is Verdict.FAIL
