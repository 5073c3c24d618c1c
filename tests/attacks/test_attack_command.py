import json
import subprocess
import sys

import pytest
import yaml
from scenes import images_of, model_of

from primia.attacks.document import AttackDocument
from primia.config import load_params
from primia.data.image_set import save_image_set
from primia.models.released import save_model

PRIVACY = {
    "enabled": True,
    "synthetic": False,
    "trust": "local",
    "noise_multiplier": 1.0,
    "clip_norm": 0.5,
    "sampling_rate": 0.5,
    "steps": 8,
    "local_steps": 2,
    "views": 3,
    "learning_rate": 0.3,
    "expected_batch": 10.0,
    "hospitals": 5,
    "threshold": 4,
    "curious": 2,
    "statistics_noise": 10.0,
    "delta": 1e-4,
    "epsilon": 50.0,
}


@pytest.fixture
def folder(tmp_path):
    params = load_params().model_dump(mode="json")
    params["preprocess"]["pixels"] = 16
    params["attack"] |= {"gallery": 16, "membership": "stand_in"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    save_model(tmp_path / "models/federated", model_of())
    save_image_set(tmp_path / "data/test/test.safetensors", images_of(30))
    (tmp_path / "privacy.json").write_text(json.dumps(PRIVACY))
    return tmp_path


def attack(folder, *arguments):
    command = [sys.executable, "-m", "primia.cli", "attack", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_one_attack_by_hand_leaves_a_document_and_says_its_verdict(folder):
    done = attack(folder, "--privacy", "privacy.json", "--attack", "imprint", "--seed", "5", "--out", "found")
    assert done.returncode == 0, done.stderr
    document = AttackDocument.model_validate_json((folder / "found/attack.json").read_text())
    [entry] = document.attacks
    assert (entry.name, entry.budget, entry.settings["seed"]) == ("imprint", "quick", 5)
    assert f"imprint, round 0: {entry.reason}" in done.stdout
    assert list((folder / ".state/attack").iterdir()) == []


def test_without_a_privacy_file_the_model_counts_as_trained_without_privacy(folder):
    done = attack(folder, "--attack", "imprint")
    assert done.returncode == 0 and "without differential privacy" in done.stdout
    assert json.loads((folder / "attack-results/attack.json").read_text())["verdict"] == "FAIL"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--attack", "theft"), "There is no attack theft on this model, only gradient_inversion, "),
        (("--images", "nowhere.safetensors"), "nowhere.safetensors is missing"),
        (("--model", "nowhere"), "nowhere/model.json is missing"),
        (("--privacy", "nowhere.json"), "nowhere.json is missing"),
        (("--params", "nowhere.yaml"), "nowhere.yaml is missing"),
    ],
)
def test_what_is_missing_is_one_sentence_and_nothing_is_written(folder, arguments, sentence):
    done = attack(folder, *arguments)
    assert done.returncode == 1
    [said] = done.stderr.strip().splitlines()
    assert said.startswith("primia: ") and sentence in said
    assert not (folder / "attack-results").exists()
