import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml
from scenes import images_of, model_of

from primia.attacks.document import AttackDocument
from primia.config import load_params
from primia.data.image_set import save_image_set
from primia.files import sha256_of_folder, sha256_of_json
from primia.models.released import load_model, save_model

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
    trained = model_of()
    with torch.no_grad():  # no trained model has the weights that the first one had
        for weight in trained.network.head.parameters():
            weight.add_(0.02)
    save_model(tmp_path / "models/federated", trained)
    save_image_set(tmp_path / "data/test/test.safetensors", images_of(30))
    (tmp_path / "privacy.json").write_text(json.dumps(PRIVACY))
    return tmp_path


def attack(folder, *arguments):
    command = [sys.executable, "-m", "primia.cli", "attack", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def wait_for(there, *, seconds=60):
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_one_attack_by_hand_leaves_a_document_and_says_its_verdict(folder):
    done = attack(folder, "--privacy", "privacy.json", "--attack", "imprint", "--seed", "5", "--out", "found")
    assert done.returncode == 0, done.stderr
    document = AttackDocument.model_validate_json((folder / "found/attack.json").read_text())
    [entry] = document.attacks
    assert (entry.name, entry.budget, entry.settings["seed"]) == ("imprint", "quick", 5)
    released = load_model(folder / "models/federated").digest()
    assert document.model_digest == released and document.attacked_digests == {"first": entry.model_digest}
    assert entry.model_digest != released and not document.complete
    assert document.privacy_digest == sha256_of_json(PRIVACY)
    assert f"imprint, round 0: {entry.reason}" in done.stdout
    assert list((folder / ".state/attack").iterdir()) == []


def test_without_a_privacy_file_the_model_counts_as_trained_without_privacy(folder):
    done = attack(folder, "--attack", "imprint")
    assert done.returncode == 0 and "No --privacy was given" in done.stdout
    document = json.loads((folder / "attack-results/attack.json").read_text())
    assert document["verdict"] == "FAIL" and document["privacy_digest"] is None


@pytest.mark.parametrize("place", ["models/federated", "mine", "params.yaml", "params.yaml/found", "."])
def test_nothing_but_earlier_results_is_replaced(folder, place):
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").write_text("mine")
    before = sha256_of_folder(folder)
    done = attack(folder, "--privacy", "privacy.json", "--attack", "imprint", "--out", place)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("primia: ") and place.split("/")[0] in done.stderr
    assert sha256_of_folder(folder) == before


def test_earlier_results_are_replaced(folder):
    for seed in ("1", "2"):
        done = attack(folder, "--privacy", "privacy.json", "--attack", "imprint", "--seed", seed)
        assert done.returncode == 0, done.stderr
        document = json.loads((folder / "attack-results/attack.json").read_text())
        assert document["attacks"][0]["settings"]["seed"] == int(seed)


def test_a_place_for_parts_that_is_a_file_is_one_sentence(folder):
    done = attack(folder, "--privacy", "privacy.json", "--attack", "imprint", "--state", "params.yaml")
    assert (done.returncode, done.stderr) == (
        1,
        "primia: The folder params.yaml cannot be made (File exists); name another place.\n",
    )


def test_patients_of_the_hospitals_are_no_candidates(folder):
    save_image_set(folder / "data/sites/hill/train.safetensors", images_of(30).subset(torch.arange(4)))
    done = attack(folder, "--privacy", "privacy.json", "--attack", "imprint")
    assert done.returncode == 1 and "have patients in common" in done.stderr
    assert not (folder / "attack-results").exists()


def test_an_interrupted_attack_ends_at_once_and_says_how_to_go_on(folder):
    command = [sys.executable, "-m", "primia.cli", "attack", "--privacy", "privacy.json", "--budget", "full"]
    process = subprocess.Popen(
        [*command, "--attack", "gradient_inversion"],
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell's background jobs ignore, whoever types does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(lambda: list(folder.glob(".attack-results.*")))  # it has begun, and needs minutes
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
    assert not list(folder.glob("*attack-results*")), "nothing is half-written"


@pytest.mark.parametrize(("options", "agreed"), [((), False), (("--pictures",), True)])
def test_pictures_of_real_patients_are_asked_for_by_an_option_and_named(folder, options, agreed):
    done = attack(folder, "--privacy", "privacy.json", "--attack", "imprint", *options)
    assert done.returncode == 0, done.stderr
    document = json.loads((folder / "attack-results/attack.json").read_text())
    assert document["attacks"][0]["settings"]["pictures"] is agreed and bool(document["uncovered"]) is agreed


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


@pytest.mark.parametrize("name", ["imprint", "gradient_inversion"])
@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (images_of(30, pixels=20), "normal, bacterial, viral at 20 pixels, but the model has "),
        (
            replace(images_of(30), classes=("cat", "dog", "cow")),
            "The candidates have classes cat, dog, cow at 16 pixels",
        ),
    ],
)
def test_images_that_the_model_was_not_made_for_are_refused_by_every_attack(folder, name, images, sentence):
    save_image_set(folder / "other.safetensors", images)
    done = attack(folder, "--privacy", "privacy.json", "--attack", name, "--images", "other.safetensors")
    assert done.returncode == 1
    [said] = done.stderr.strip().splitlines()
    assert sentence in said and said.endswith("attack it with images preprocessed for it.")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{}", "enabled: Field required"),
        ('{"enabled": true, "synthetic": false}', "trust: Field required"),
        ("[]", "(it holds no keys)"),
        (json.dumps(PRIVACY | {"sampling_rate": 1.5}), "sampling_rate: Input should be less than or equal to 1"),
        (json.dumps(PRIVACY | {"views": "3"}), "views: Input should be a valid integer"),
    ],
)
def test_a_damaged_privacy_file_is_one_sentence(folder, content, named):
    (folder / "damaged.json").write_text(content)
    done = attack(folder, "--privacy", "damaged.json", "--attack", "imprint")
    assert done.returncode == 1
    [said] = done.stderr.strip().splitlines()
    assert said.startswith("primia: damaged.json does not say how private the training was (") and named in said
    assert said.endswith("or give the file that it wrote.")
