from dataclasses import replace

import pytest
from scenes import CLASSES, images_of, model_of
from test_attack_command import PRIVACY

from primia.attacks.staging import set_scene
from primia.attacks.statement import UNSTATED, read_statement
from primia.config import load_params
from primia.data.image_set import save_image_set
from primia.errors import ConfigError, DataError
from primia.files import write_json


def scene(folder, privacy=PRIVACY, *, released=None, membership="stand_in", **settings):
    params = load_params()
    attack = params.attack.model_copy(update={"membership": membership})
    params = params.model_copy(
        update={"attack": attack, "privacy": params.privacy.model_copy(update=settings)},
    )
    write_json(folder / "privacy.json", privacy)
    return set_scene(
        params,
        read_statement(folder / "privacy.json") if privacy else UNSTATED,
        released or model_of(),
        candidates=images_of(20),
        sites=folder / "sites",
    )


def test_what_was_trained_counts_and_not_what_params_yaml_asks_for_today(tmp_path):
    asked = {
        "local_steps": 7,
        "views": 9,
        "learning_rate": 5.0,
        "sampling_rate": 0.1,
        "site_population": 9,
        "curious": 1,
    }
    declared = scene(tmp_path, **asked).declared
    trained = (declared.steps_per_round, declared.views, declared.learning_rate, declared.expected_batch)
    assert trained == (2, 3, 0.3, 10.0)
    assert (declared.sampling_rate, declared.statistics_noise, declared.epsilon) == (0.5, 10.0, 50.0)


def test_noise_in_shares_is_that_of_the_hospitals_that_trained(tmp_path):
    shares = PRIVACY | {"trust": "distributed", "local_steps": 1}
    one = scene(tmp_path, shares | {"curious": 1}, curious=2)
    two = scene(tmp_path, shares | {"curious": 2}, curious=1)
    assert (one.step.__self__.hospitals, one.step.__self__.threshold, one.step.__self__.curious) == (5, 4, 1)
    assert two.trainer.__self__.curious == 2 and one.declared.discrete
    assert one.declared.noise_seen == pytest.approx(1.0, rel=1e-3) == two.declared.noise_seen
    weights = sum(weight.numel() for weight in one.released.network.head.parameters())
    # Sums of more gradients need a coarser grid, and with it a little more noise.
    assert one.noise_with(weights) == one.declared.noise_seen < one.noise_with(1000 * weights)


def test_without_a_statement_nothing_is_declared_and_nobody_is_synthetic(tmp_path):
    bare, phantoms = scene(tmp_path, None), scene(tmp_path, {"enabled": False, "synthetic": True})
    assert bare.declared is phantoms.declared is None
    assert (bare.synthetic, phantoms.synthetic) == (False, True)
    assert bare.privacy_digest is None and phantoms.privacy_digest is not None


def test_settings_of_another_network_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"model\.architecture is scattering, but the model to be attacked is convnet with"
    ):
        scene(tmp_path, released=model_of("convnet"))


def test_patients_of_a_hospital_who_do_not_fit_the_model_are_refused(tmp_path):
    for name in load_params().preprocess.hospitals:
        for split in ("train", "validation"):
            save_image_set(tmp_path / "sites" / name / f"{split}.safetensors", images_of(6))
    assert scene(tmp_path, membership="released").membership.members.classes == CLASSES
    wrong = replace(images_of(6), classes=("a", "b", "c"))
    save_image_set(tmp_path / "sites/river/validation.safetensors", wrong)
    with pytest.raises(
        DataError, match="The patients of river have classes a, b, c at 16 pixels, but the model has nor"
    ):
        scene(tmp_path, membership="released")
