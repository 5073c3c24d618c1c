"""The membership attack from end to end, on patients of pure noise, whom a training can only know by heart."""

import dataclasses

import pytest
import torch
from scenes import DECLARED, SeededNoise, images_of, model_of, report_of, scene_of

from primia.attacks.contract import Verdict
from primia.attacks.membership import MembershipInference
from primia.attacks.membership_deal import deal
from primia.attacks.membership_models import attack_target, attack_undefended, scores_of, train_reference
from primia.attacks.membership_training import train_as_declared
from primia.attacks.roc import caught
from primia.attacks.scene import Membership, inputs_of
from primia.models.released import ReleasedModel
from primia.privacy.accounting import epsilon_of
from primia.training.private import train_private


def declaring(**changes):
    declared = dataclasses.replace(DECLARED, **changes)
    return dataclasses.replace(declared, epsilon=epsilon_of(declared.everything(), delta=declared.delta))


# Everybody takes part in every step, and without noise everybody is known by heart in the end.
MEMORISING = declaring(sampling_rate=1.0, steps=10, steps_per_round=5, learning_rate=2.0, noise_multiplier=30.0)
# The one step passes over nearly everybody, whom it therefore cannot betray.
FORGETFUL = declaring(sampling_rate=0.05, steps=1, steps_per_round=1, noise_multiplier=30.0)


def without_noise(head, **arguments):
    train_private(head, **(arguments | {"noise_multiplier": 0.0}))


def nowhere(done, total):
    pass


def attacked(folder, declared, **changes):
    return report_of(MembershipInference(), scene_of(candidates=images_of(96), declared=declared, **changes), folder)


def test_a_sound_training_passes_because_its_undefended_counterpart_is_recognised(tmp_path):
    report = attacked(tmp_path, MEMORISING)
    assert report.verdict is Verdict.PASS
    undefended, works = report.outcome.facts["undefended"], report.outcome.facts["works"]
    assert f"without defence it was right in {sum(undefended['recognised'])} of 48" in report.reason
    assert min(undefended["recognised"]) > 20
    assert (undefended["patients"], undefended["rounds"]) == (24, 2)
    assert undefended["lira"]["auc"] > 0.98
    assert works["members"] == 45 and works["recognised"][0] > 40
    assert {row["model"] for row in report.outcome.facts["roc"]} == {"attacked", "without noise", "known by heart"}
    low, high = report.outcome.negative.interval(0.999)
    assert low <= 0.5 <= high


def test_a_training_that_leaves_the_noise_out_is_caught(tmp_path):
    report = attacked(tmp_path, MEMORISING, trainer=without_noise)
    assert report.verdict is Verdict.FAIL
    assert report.outcome.facts["recognised"] == [24, 24]
    assert report.outcome.trials.interval(0.95)[0] > 3 * report.outcome.bound


def test_a_training_that_cannot_be_attacked_without_noise_either_proves_nothing(tmp_path):
    report = attacked(tmp_path, FORGETFUL)
    assert report.verdict is Verdict.INCONCLUSIVE
    positive, works = report.outcome.positive, report.outcome.facts["works"]
    assert f"Without defence the same attacker was right in only {positive.successes} of 48" in report.reason
    assert "this training memorises too little for this attack. The attack's code works" in report.reason
    assert works["recognised"][0] > 40  # models that know patients by heart do not make up for it


def test_a_large_epsilon_leaves_nothing_to_prove_even_where_the_undefended_training_is_recognised(tmp_path):
    lax = declaring(sampling_rate=1.0, steps=10, steps_per_round=5, learning_rate=2.0, noise_multiplier=0.3)
    report = attacked(tmp_path, lax)
    assert report.outcome.positive.rate > 0.9
    assert report.verdict is Verdict.INCONCLUSIVE
    assert "to tell it from what the declared privacy allows" in report.reason


def test_without_privacy_there_is_no_control_and_the_verdict_is_fail(tmp_path):
    scene = scene_of(candidates=images_of(96), declared=None, released=dataclasses.replace(model_of(), round=3))
    report = report_of(MembershipInference(), scene, tmp_path)
    assert report.verdict is Verdict.FAIL
    assert (report.outcome.facts["undefended"], report.outcome.facts["works"]) == (None, None)


@pytest.fixture(scope="module")
def hospitals():
    return Membership(members=images_of(90, seed=11), others=images_of(40, seed=12))


def released_from(scene, known, *, defended) -> ReleasedModel:
    head = train_as_declared(
        scene,
        inputs=inputs_of(scene.released, known.members.images),
        labels=known.members.labels,
        patients=known.members.patients,
        rounds=2,
        generator=torch.Generator(),
        advance=nowhere,
        defended=defended,
    )
    model = scene.model("first")
    model.network.head.load_state_dict(head.state_dict())
    return model


@pytest.mark.parametrize(("defended", "verdict"), [(True, Verdict.PASS), (False, Verdict.FAIL)])
def test_a_released_model_is_judged_by_whether_it_betrays_the_hospitals_patients(
    tmp_path, hospitals, defended, verdict
):
    scene = scene_of(candidates=images_of(40), declared=MEMORISING, membership=hospitals)
    scene = dataclasses.replace(scene, released=released_from(scene, hospitals, defended=defended))
    report = report_of(MembershipInference(), scene, tmp_path)
    assert report.verdict is verdict
    assert report.outcome.facts["undefended"]["patients"] == 90


def test_a_release_without_noise_is_attacked_with_reference_models_that_have_none_either(tmp_path, hospitals):
    scene = scene_of(candidates=images_of(40), declared=MEMORISING, membership=hospitals)
    scene = dataclasses.replace(scene, released=released_from(scene, hospitals, defended=False))
    noisy, still = ([train_reference(scene, 0, n, nowhere, defended=d) for n in range(4)] for d in (True, False))
    target = [attack_target(scene, 0, nowhere)]

    def recognised(*sets):
        [scores], _ = scores_of(scene, target, sets)
        return caught(scores.lira[scores.member].numpy(), scores.lira[~scores.member].numpy(), passing=4)

    assert recognised(noisy) < 20 < 50 < recognised(still)
    assert recognised(noisy, still) == recognised(still)


def test_the_counterpart_of_a_released_model_learns_all_patients_and_not_only_those_asked_about(hospitals):
    known = dataclasses.replace(hospitals, others=hospitals.others.subset(hospitals.others.patients < 30))
    learned = []

    def watching(head, **arguments):
        learned.append((len(torch.unique(arguments["patients"])), arguments["expected_batch"]))
        train_private(head, **arguments)

    scene = scene_of(candidates=images_of(40), declared=MEMORISING, membership=known, trainer=watching)
    part = attack_undefended(scene, 0, nowhere)
    assert len(deal(scene).folds[0].members) == 60
    assert learned == [(90, 90.0)] * 2
    assert part.values == {"patients": 90, "rounds": 2}


def test_an_undefended_counterpart_takes_the_same_clipped_steps_without_noise():
    told = []

    class Silent(SeededNoise):
        def normal(self, shape):
            raise AssertionError("noise was drawn")

    def watching(head, **arguments):
        told.append(arguments)
        train_private(head, **arguments)

    for defended in (True, False):
        scene = scene_of(declared=MEMORISING, trainer=watching, noise=SeededNoise() if defended else Silent())
        images = scene.candidates
        train_as_declared(
            scene,
            inputs=inputs_of(scene.released, images.images),
            labels=images.labels,
            patients=images.patients,
            rounds=1,
            generator=torch.Generator(),
            advance=nowhere,
            defended=defended,
        )
    with_noise, without = told
    assert (with_noise["noise_multiplier"], without["noise_multiplier"]) == (30.0, 0.0)
    for name in ("clip_norm", "sampling_rate", "expected_batch", "steps", "learning_rate", "views", "precision"):
        assert with_noise[name] == without[name]


def test_members_others_and_the_attackers_patients_are_different_people():
    one, two = deal(scene_of(candidates=images_of(96))).folds
    for fold in (one, two):
        groups = [set(part.tolist()) for part in (fold.members, fold.others, fold.pool)]
        assert [len(group) for group in groups] == [24, 24, 48]
        assert len(set.union(*groups)) == 96
    assert set(one.asked.tolist()) == set(two.pool.tolist())


def test_two_of_the_attackers_models_share_its_patients_between_them():
    [fold, _] = deal(scene_of(candidates=images_of(96))).folds
    halves = [set(fold.half(number, torch.Generator().manual_seed(4)).tolist()) for number in (0, 1)]
    assert not halves[0] & halves[1]
    assert halves[0] | halves[1] == set(fold.pool.tolist())
