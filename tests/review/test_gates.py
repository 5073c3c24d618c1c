import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml

from primia.errors import ConfigError, DataError
from primia.files import sha256_of_json
from primia.review.gates import Profile, check_gates, collect_facts, load_profile

ROOT = Path(__file__).parents[2]
GATES = ROOT / "mlflow/gates.yaml"

ATTACKS = ("gradient_retrieval", "gradient_inversion", "imprint", "membership", "one_run_audit")
GOOD = {
    "data": {"synthetic": False},
    "federation": {"released_round": 9, "model_digest": "ab12", "secure_aggregation": "masking"},
    "privacy": {
        "enabled": True,
        "epsilon": 7.97,
        "epsilon_all_runs": 7.98,
        "synthetic": False,
        "digest": "ef56",
        "delta": 1e-4,
        "unit": "patient",
        "uncovered": [
            "counts of images and patients in the record of the data (data/raw/source.json)",
            "figures on the test patients in the stages evaluate, attack and encrypt",
        ],
    },
    "evaluation": {"mcc": {"value": 0.7, "low": 0.62, "high": 0.75}, "uncovered": [], "model_digest": "ab12"},
    "comparison": {"enabled": False, "uncovered": []},
    "attack": {
        "verdict": "PASS",
        "verdicts": dict.fromkeys(ATTACKS, "PASS"),
        "complete": True,
        "budget": "standard",
        "confidence": 0.999,
        "gallery": 64,
        "uncovered": [],
        "model_digest": "ab12",
        "privacy_digest": "ef56",
    },
    "encryption": {
        "agreement": 1.0,
        "logit_error": 2e-4,
        "student_mcc": 0.65,
        "teacher_digest": "ab12",
        "data": "none",
        "covered": True,
    },
    "params": {
        "task": "classification",
        "secure_aggregation": {"scheme": "masking"},
    },
}


# A version that marks structures: no class is named, and nothing answers encrypted images.
SEGMENTING = copy.deepcopy(GOOD) | {
    "evaluation": {
        "dice": {"value": 0.85, "low": 0.83, "high": 0.87},
        "worst_dice": 0.6,
        "worst_structure": {"name": "anterior", "value": 0.83, "low": 0.81, "high": 0.85},
        "uncovered": [],
        "model_digest": "ab12",
    },
    "encryption": {"enabled": False},
    "params": {**GOOD["params"], "task": "segmentation"},
}


def changed(key, value):
    facts = copy.deepcopy(GOOD)
    *path, last = key.split(".")
    section = facts
    for part in path:
        section = section[part]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return facts


def missed(profile, facts):
    return [result.name for result in check_gates(load_profile(GATES, profile), facts) if not result.passed]


@pytest.mark.parametrize("profile", ["demo", "clinical"])
def test_good_facts_pass_every_gate(profile):
    assert missed(profile, GOOD) == []


@pytest.mark.parametrize("profile", ["demo", "clinical"])
def test_a_version_that_marks_structures_is_judged_by_its_overlap(profile):
    assert missed(profile, SEGMENTING) == []
    poor = SEGMENTING | {"evaluation": {**SEGMENTING["evaluation"], "dice": {"value": 0.2, "low": 0.1, "high": 0.3}}}
    assert missed(profile, poor) == ["overlap"]
    unseen = {
        **SEGMENTING["evaluation"],
        "worst_structure": {"name": "posterior", "value": 0.0, "low": 0.0, "high": 0.0},
    }
    lost = ["overlap_of_every_structure"] if profile == "clinical" else []
    assert missed(profile, SEGMENTING | {"evaluation": unseen}) == lost


@pytest.mark.parametrize("profile", ["demo", "clinical"])
def test_a_version_that_does_not_say_its_task_must_pass_the_gates_of_both(profile):
    assert "overlap" in missed(profile, {key: value for key, value in GOOD.items() if key != "params"})


@pytest.mark.parametrize("profile", ["demo", "clinical"])
@pytest.mark.parametrize(
    ("key", "value", "gate"),
    [
        ("privacy.enabled", False, "private_training"),
        ("privacy.enabled", 1, "private_training"),
        ("privacy.epsilon", 8.01, "privacy_budget"),
        ("privacy.epsilon", float("nan"), "privacy_budget"),
        ("privacy.epsilon", "7", "privacy_budget"),
        ("privacy.epsilon", None, "privacy_budget"),
        ("privacy.unit", "image", "privacy_per_patient"),
        ("privacy.delta", 0.01, "privacy_failure_chance"),
        ("federation.secure_aggregation", "none", "secure_aggregation"),
        ("federation.model_digest", "another", "trained_model"),
        ("encryption.teacher_digest", "another", "encrypted_model"),
        ("encryption.covered", False, "encrypted_covered"),
        ("encryption.covered", None, "encrypted_covered"),
        ("attack.verdict", "FAIL", "attacks"),
        ("attack.verdicts.gradient_retrieval", None, "attack_retrieval"),
        ("attack.verdicts.one_run_audit", "INCONCLUSIVE", "attack_audit"),
        ("attack.verdict", None, "attacks"),
        ("attack.model_digest", "cd34", "attacked_model"),
        ("attack.privacy_digest", "cd34", "attacked_privacy"),
        ("attack.privacy_digest", None, "attacked_privacy"),
        ("privacy.digest", "cd34", "attacked_privacy"),
        ("attack.complete", False, "attacks_complete"),
        ("attack.complete", None, "attacks_complete"),
        ("encryption.student_mcc", 0.01, "encrypted_utility"),
        ("encryption.agreement", 0.94, "encrypted_agreement"),
        ("encryption.logit_error", 0.011, "encrypted_precision"),
    ],
)
def test_each_gate_misses_what_it_is_there_for(profile, key, value, gate):
    assert missed(profile, changed(key, value)) == [gate]


def test_demo_looks_at_the_value_of_the_mcc_and_clinical_at_its_lower_end():
    low = changed("evaluation.mcc.low", 0.4)
    assert (missed("demo", low), missed("clinical", low)) == ([], ["utility"])
    assert missed("demo", changed("evaluation.mcc.value", 0.29)) == ["utility"]


def test_only_clinical_asks_for_real_images_and_for_nothing_outside_the_budget():
    assert missed("clinical", changed("privacy.synthetic", True)) == ["real_images"]
    unproven = changed("attack.verdict", "INCONCLUSIVE")
    assert (missed("demo", unproven), missed("clinical", unproven)) == ([], ["attacks"])
    assert missed("clinical", changed("attack.budget", "quick")) == ["attack_budget"]
    assert missed("clinical", changed("attack.uncovered", ["figures"])) == ["attacks_cover_everything"]
    assert missed("clinical", changed("evaluation.uncovered", ["images"])) == ["evaluation_shows_nobody"]
    assert missed("demo", changed("evaluation.uncovered", ["images"])) == []
    assert missed("clinical", changed("attack.verdicts.membership", "FAIL")) == ["attack_membership"]
    assert missed("clinical", changed("privacy.epsilon_all_runs", 80.0)) == ["privacy_budget_all_runs"]
    assert missed("demo", changed("privacy.synthetic", True)) == []
    uncovered = changed("privacy.uncovered", ["choice of the best round"])
    assert (missed("demo", uncovered), missed("clinical", uncovered)) == ([], ["privacy_covers_everything"])
    compared = changed("comparison.uncovered", ["test figures of every arm"])
    assert (missed("demo", compared), missed("clinical", compared)) == ([], ["comparison_covers_everything"])


def test_clinical_asks_for_every_attack_among_enough_candidates_at_enough_confidence():
    for key, value, gate in (
        ("attack.verdicts.gradient_inversion", "INCONCLUSIVE", "attack_inversion"),
        ("attack.verdicts.imprint", None, "attack_imprint"),
        ("attack.confidence", 0.99, "attack_confidence"),
        ("attack.gallery", 32, "attack_gallery"),
    ):
        assert (missed("demo", changed(key, value)), missed("clinical", changed(key, value))) == ([], [gate])


def test_clinical_refuses_a_student_that_was_taught_at_the_hospitals():
    taught = changed("encryption.data", "hospitals")
    taught["encryption"]["covered"] = False
    assert missed("clinical", taught) == ["encrypted_covered", "encrypted_data"]
    assert missed("clinical", changed("encryption.data", "hospitals")) == ["encrypted_data"]  # whatever it claims
    assert missed("demo", changed("encryption.data", "phantoms")) == []


def test_a_whole_section_that_is_missing_fails_its_gates_with_a_sentence():
    facts = {name: section for name, section in GOOD.items() if name != "attack"}
    results = {result.name: result for result in check_gates(load_profile(GATES, "demo"), facts)}
    assert not results["attacks"].passed and results["attacks"].value is None
    assert results["attacks"].reason.startswith("attack.verdict is missing, so it cannot be judged")
    assert results["attacks"].required == "one of PASS, INCONCLUSIVE"


def test_a_missing_fact_to_compare_with_fails_the_gate():
    assert missed("demo", changed("attack.model_digest", None)) == ["attacked_model"]
    assert missed("demo", changed("evaluation.model_digest", None)) == [
        "attacked_model",
        "trained_model",
        "encrypted_model",
    ]


def test_a_missed_gate_says_value_requirement_and_why():
    (result,) = [
        r for r in check_gates(load_profile(GATES, "demo"), changed("evaluation.mcc.value", 0.1)) if not r.passed
    ]
    assert result.reason == (
        "evaluation.mcc.value is 0.1 but must be at least 0.3: below this the model has learned next to nothing"
    )
    assert (result.value, result.required) == (0.1, "at least 0.3")


def test_a_rule_in_lists_what_is_allowed_and_two_rules_must_both_hold():
    gates = {
        "scheme": {"key": "params.scheme", "in": ["masking", "shares"], "why": "w"},
        "range": {"key": "params.number", "min": 1, "max": 2, "why": "w"},
    }
    profile = Profile.model_validate({"gates": gates})

    def passed(scheme, number):
        return [r.passed for r in check_gates(profile, {"params": {"scheme": scheme, "number": number}})]

    assert passed("shares", 1.5) == [True, True]
    assert passed("none", 3) == [False, False]
    assert passed("none", 0) == [False, False]


def test_demo_marks_its_versions_as_unfit_for_patients():
    assert load_profile(GATES, "demo").marks == "unfit for patients"
    assert load_profile(GATES, "clinical").marks is None


@pytest.mark.parametrize(
    ("gate", "named"),
    [
        ({"key": "evaluation.mcc.low", "atleast": 1, "why": "w"}, "demo.gates.g.atleast"),
        ({"key": "evalution.mcc.low", "min": 1, "why": "w"}, "demo.gates.g.key"),
        ({"key": "evaluation.mcc.low", "min": "1e-2", "why": "w"}, "demo.gates.g.min"),
        ({"key": "evaluation.mcc.low", "why": "w"}, "at least one rule"),
        ({"key": "evaluation.mcc.low", "min": 1}, "demo.gates.g.why"),
    ],
)
def test_a_broken_gate_is_a_configuration_error(tmp_path, gate, named):
    path = tmp_path / "gates.yaml"
    path.write_text(yaml.safe_dump({"demo": {"gates": {"g": gate}}}))
    with pytest.raises(ConfigError, match=named):
        load_profile(path, "demo")


def test_a_profile_without_gates_lets_nothing_through(tmp_path):
    path = tmp_path / "gates.yaml"
    path.write_text("demo: {gates: {}}\n")
    with pytest.raises(ConfigError, match=r"demo\.gates"):
        load_profile(path, "demo")
    with pytest.raises(ConfigError, match="has no profile clinical"):
        load_profile(path, "clinical")
    with pytest.raises(ConfigError, match="restore it from git"):
        load_profile(tmp_path / "none.yaml", "demo")


def test_facts_come_from_the_files_and_missing_files_leave_their_section_out(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "results/attack").mkdir(parents=True)
    (tmp_path / "results/attack/attack.json").write_text(json.dumps(GOOD["attack"]))
    facts = collect_facts(tmp_path)
    assert set(facts) == {"attack", "params"}
    assert facts["attack"] == GOOD["attack"]
    assert facts["params"]["secure_aggregation"]["scheme"] == "masking"


def test_the_digest_of_the_privacy_is_that_of_the_content_and_not_of_the_file(tmp_path):
    path = tmp_path / "results/federation/privacy.json"
    path.parent.mkdir(parents=True)

    def facts_of(text):
        path.write_text(text)
        return collect_facts(tmp_path)["privacy"]

    one, same, other = map(facts_of, ('{"epsilon": 8, "delta": 0.1}', '{"delta": 0.1,"epsilon": 8}', '{"epsilon": 9}'))
    assert one == same and one["digest"] != other["digest"]
    assert one["digest"] == sha256_of_json({"epsilon": 8, "delta": 0.1}) and one["epsilon"] == 8


def test_a_broken_result_file_is_an_error_and_not_a_missing_fact(tmp_path):
    (tmp_path / "results/attack").mkdir(parents=True)
    (tmp_path / "results/attack/attack.json").write_text('{"verdict": "PA')
    with pytest.raises(DataError, match=r"attack\.json is not valid JSON"):
        collect_facts(tmp_path)
