"""params.yaml: each mistake is one sentence that names the key, the value and what is allowed."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from primia.config import Params, Volume, load_params, parse_params
from primia.errors import ConfigError
from primia.secagg.quantise import Quantiser

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def shipped() -> dict[str, Any]:
    return deepcopy(yaml.safe_load(SHIPPED.read_text()))


def refused(raw: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_params(raw)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


def test_the_shipped_file_is_valid_and_writes_out_every_key() -> None:
    params = load_params(SHIPPED)
    assert params.model_dump(mode="json") == yaml.safe_load(SHIPPED.read_text())


def test_an_unknown_key_is_named() -> None:
    raw = shipped()
    raw["federation"]["round"] = 3
    assert "federation.round is not a known key" in refused(raw)


def test_a_value_out_of_range_is_named_with_its_range() -> None:
    raw = shipped()
    raw["privacy"]["sampling_rate"] = 1.5
    sentence = refused(raw)
    assert "privacy.sampling_rate is 1.5" in sentence
    assert "less than or equal to 1" in sentence


def test_a_missing_key_and_a_wrong_type_are_named() -> None:
    raw = shipped()
    del raw["federation"]["rounds"]
    assert "federation.rounds is missing" in refused(raw)
    raw = shipped()
    raw["federation"]["rounds"] = "ten"
    assert "federation.rounds is 'ten'" in refused(raw)


def test_secure_aggregation_needs_three_hospitals() -> None:
    raw = shipped()
    raw["preprocess"]["hospitals"] = ["north", "river"]
    assert "needs at least 3 hospitals" in refused(raw)
    raw["secure_aggregation"]["scheme"] = "none"
    assert parse_params(raw).preprocess.hospitals == ("north", "river")


def test_mixup_and_class_weights_are_refused_with_differential_privacy_and_the_reason_is_told() -> None:
    for key, value, reason in (("mixup", 0.2, "blends images of different patients"), ("class_weights", True, "label")):
        raw = shipped()
        raw["privacy"]["enabled"] = True
        raw["training"][key] = value
        sentence = refused(raw)
        assert f"training.{key}" in sentence
        assert reason in sentence
        assert "privacy.enabled to false" in sentence
        raw["privacy"]["enabled"] = False
        assert getattr(parse_params(raw).training, key) == value


def test_local_normalisation_needs_a_model_with_normalisation_layers() -> None:
    raw = shipped()
    raw["training"]["local_normalisation"] = True
    raw["model"]["architecture"] = "scattering"
    assert "choose another model.architecture" in refused(raw)
    raw["model"]["architecture"] = "convnet"
    assert parse_params(raw).training.local_normalisation


def test_weight_standardisation_needs_a_model_that_learns_convolutions() -> None:
    raw = shipped()
    raw["model"] = {"architecture": "scattering", "weight_standardisation": True}
    assert "learns no convolution; set it to false" in refused(raw)
    raw["model"]["architecture"] = "resnet9"
    assert parse_params(raw).model.weight_standardisation


def test_pretraining_on_phantoms_needs_classes_that_phantoms_show() -> None:
    raw = shipped()
    raw["training"]["pretrain"] = "phantom"
    raw["ingest"]["classes"] = ["viral", "normal"]
    assert parse_params(raw).training.pretrain == "phantom"
    raw["ingest"]["classes"] = ["normal", "covid"]
    assert "names covid, and phantoms show only normal, bacterial, viral; set training.pretrain to none" in refused(raw)


def test_a_student_of_a_private_model_is_not_taught_at_the_hospitals() -> None:
    raw = shipped()
    raw["model"]["architecture"] = "convnet"
    raw["encryption"]["data"] = "hospitals"
    assert "is in no privacy budget; set it to phantoms, or privacy.enabled to false" in refused(raw)
    raw["privacy"]["enabled"] = False
    assert parse_params(raw).encryption.data == "hospitals"


def test_the_scattering_model_has_no_student_to_teach() -> None:
    raw = shipped()
    raw["privacy"]["enabled"] = False
    raw["encryption"]["data"] = "hospitals"
    assert "has no student to teach; set it to phantoms" in refused(raw)


def test_a_student_takes_sizes_that_can_be_packed_and_that_its_teacher_sees() -> None:
    raw = shipped()
    raw["preprocess"]["pixels"] = 112
    raw["model"]["architecture"] = "resnet18"
    raw["encryption"]["pixels"] = 100
    assert "cut into patches of 8 x 8; set it to 96" in refused(raw)
    raw["encryption"]["pixels"] = 112
    assert parse_params(raw).encryption.pixels == 112
    raw["encryption"]["pixels"] = 120
    assert "a student cannot see more than its teacher" in refused(raw)
    raw["encryption"]["pixels"] = 300
    assert "encryption.pixels is 300" in refused(raw)


def with_profile(profile: str) -> Params:
    raw = shipped()
    for section, values in yaml.safe_load((SHIPPED.parent / "profiles" / f"{profile}.yaml").read_text()).items():
        raw[section] = raw[section] | values if isinstance(values, dict) else values
    raw["ingest"]["folder"] = "/data/images"
    return parse_params(raw)


@pytest.mark.parametrize("profile", ["chest_xray", "chest_xray_private"])
def test_the_profiles_of_x_rays_are_valid_over_the_shipped_file(profile: str) -> None:
    params = with_profile(profile)
    assert params.encryption.data == ("hospitals" if profile == "chest_xray" else "phantoms")


def test_the_profiles_of_volumes_are_valid_over_the_shipped_file() -> None:
    hippocampus, liver, deep = map(with_profile, ("hippocampus", "liver", "liver_volumes"))
    assert hippocampus.preprocess.volume == Volume(spacing=(1.0, 1.0, 1.0))
    assert liver.preprocess.volume == Volume(spacing=(1.6, 1.6, 5.0), window=(-150, 200))
    assert liver.ingest.label_values == {"liver": (1, 2)}
    assert deep.preprocess.volume == Volume(spacing=(3.2, 3.2, 10.0), window=(-150, 200), depth=50)
    assert {hippocampus.task, liver.task, deep.task} == {"segmentation"}


@pytest.mark.parametrize(("profile", "slices"), [("hippocampus", 6286), ("liver", 2**14)])
def test_sums_weighed_by_the_slices_of_a_profile_of_volumes_fit_32_bits(profile: str, slices: int) -> None:
    settings = with_profile(profile).secure_aggregation
    Quantiser(bits=settings.bits, limit=settings.clip_range).check_headroom(slices)
    with pytest.raises(ConfigError, match=r"set secure_aggregation\.bits to"):  # with what params.yaml ships
        Quantiser(bits=load_params(SHIPPED).secure_aggregation.bits, limit=0.25).check_headroom(slices)


def test_a_comparison_needs_a_seed() -> None:
    raw = shipped()
    raw["comparison"]["seeds"] = []
    assert "comparison.seeds is []" in refused(raw)


def test_a_folder_given_to_the_phantom_source_is_a_mistake_that_is_told() -> None:
    raw = shipped()
    raw["ingest"]["folder"] = "/data/xrays"
    assert "set ingest.source to image_folder or nifti" in refused(raw)


def test_natural_dealing_of_a_folder_needs_a_hospital_column() -> None:
    raw = shipped()
    raw["ingest"] |= {"source": "image_folder", "folder": "/data/xrays"}
    assert "set preprocess.dealing to iid or dirichlet" in refused(raw)
    raw["preprocess"]["dealing"] = "iid"
    assert parse_params(raw).ingest.folder == "/data/xrays"


def test_classes_and_hospitals_are_named_once() -> None:
    raw = shipped()
    raw["ingest"]["classes"] = ["normal", "normal"]
    assert "names a class twice" in refused(raw)
    raw = shipped()
    raw["preprocess"]["hospitals"] = ["north", "north", "hill"]
    assert "names a hospital twice" in refused(raw)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is missing"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1\n")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_params(tmp_path / "params.yaml")
    assert "holds no mapping" in refused(["ingest"])
