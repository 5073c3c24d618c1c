"""params.yaml for masks: what the sections demand of one another is said in one sentence."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from primia.config import parse_params
from primia.consistency import SEGMENTING
from primia.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "params.yaml"


def changed(*bases: dict[str, Any], **sections: Any) -> dict[str, Any]:
    raw = yaml.safe_load(SHIPPED.read_text())
    for change in (*bases, sections):
        for name, values in deepcopy(change).items():
            raw[name] = raw[name] | values if isinstance(values, dict) else values
    return raw


PHANTOMS: dict[str, Any] = {
    "task": "segmentation",
    "ingest": {"classes": ["background", "lungs"]},
    "model": {"architecture": "unet"},
    "training": {"loss": "dice_cross_entropy"},
}
VOLUMES: dict[str, Any] = {
    **PHANTOMS,
    "ingest": {"source": "nifti", "folder": "/data/volumes", "classes": ["background", "liver"]},
    "preprocess": {"volume": {"spacing": [1, 1.5, 2], "window": [-150, 200], "depth": None}, "dealing": "iid"},
}


def refused(*bases: dict[str, Any], **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_params(changed(*bases, **sections))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.endswith(".")
    return sentence


def test_phantoms_and_volumes_can_be_segmented() -> None:
    assert parse_params(changed(PHANTOMS)).ingest.classes == ("background", "lungs")
    volume = parse_params(changed(VOLUMES)).preprocess.volume
    assert volume is not None and (volume.spacing, volume.window, volume.depth) == ((1.0, 1.5, 2.0), (-150, 200), None)
    assert type(volume).model_validate_json(volume.model_dump_json()) == volume


def test_a_network_fits_the_task() -> None:
    for architecture in SEGMENTING:
        assert "gives a class to every pixel, but task is classification" in refused(
            model={"architecture": architecture}
        )
        assert parse_params(changed(PHANTOMS, model={"architecture": architecture})).task == "segmentation"
    for architecture in ("scattering", "convnet", "resnet9", "resnet18"):
        sentence = refused(PHANTOMS, model={"architecture": architecture})
        assert "one class to a whole image; choose one of jet, monet, unet, unet_resnet18" in sentence


@pytest.mark.parametrize("loss", ["dice", "dice_cross_entropy"])
def test_a_loss_of_masks_needs_masks(loss: str) -> None:
    assert f"training.loss is {loss}, which compares masks" in refused(training={"loss": loss})
    assert parse_params(changed(PHANTOMS, training={"loss": loss})).training.loss == loss


def test_a_source_fits_the_task_and_volumes_say_how_they_become_images() -> None:
    folder = {"source": "image_folder", "folder": "/data/images"}
    assert "which has no masks, but task is segmentation" in refused(
        VOLUMES, ingest=folder, preprocess={"volume": None}
    )
    assert "set task to segmentation" in refused(
        VOLUMES, task="classification", model={"architecture": "convnet"}, training={"loss": "cross_entropy"}
    )
    assert "preprocess.volume is null; say there how" in refused(VOLUMES, preprocess={"volume": None})
    assert "says how a volume becomes images; set it to null" in refused(
        PHANTOMS, preprocess={"volume": {"spacing": [1.0, 1.0, 1.0]}}
    )


def test_phantoms_show_lungs_and_nothing_else() -> None:
    for classes in (["lungs", "background"], ["background", "heart"], ["background", "lungs", "heart"]):
        assert "the masks of phantoms show background, lungs" in refused(PHANTOMS, ingest={"classes": classes})


def test_what_needs_one_class_an_image_is_refused_with_masks() -> None:
    assert "dealing is dirichlet, which deals patients by their class" in refused(
        VOLUMES, preprocess={"dealing": "dirichlet"}
    )
    open_ = {"privacy": {"enabled": False}}
    assert "training.class_weights counts one class an image" in refused(
        VOLUMES, open_, training={"class_weights": True}
    )
    assert "training.mixup blends the classes of whole images" in refused(VOLUMES, open_, training={"mixup": 0.2})


def test_volumes_are_dealt_by_hospital_only_if_a_file_names_them() -> None:
    assert "set preprocess.dealing to iid, or name the column" in refused(VOLUMES, preprocess={"dealing": "natural"})
    columns = {"hospital": "site", "split": None}
    raw = changed(VOLUMES, ingest={"labels_file": "labels.csv", "columns": columns}, preprocess={"dealing": "natural"})
    assert parse_params(raw).preprocess.dealing == "natural"


def test_phantoms_teach_the_trunk_of_any_flat_segmenter_and_of_no_deep_one() -> None:
    assert parse_params(changed(VOLUMES, training={"pretrain": "phantom"})).training.pretrain == "phantom"
    deep = {"volume": {"spacing": [1.0, 1.0, 1.0], "depth": 48}}
    sentence = refused(VOLUMES, preprocess=deep, training={"pretrain": "phantom"})
    assert "preprocess.volume.depth is 48 and phantoms are flat" in sentence
    assert parse_params(changed(VOLUMES, preprocess=deep)).preprocess.volume is not None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"spleen": [1], "liver": [2]}, "names spleen, which ingest.classes does not"),
        ({"background": [0]}, "gives no value for liver"),
        ({"liver": [1, 2, 1]}, "names the value 1 twice"),
        ({"liver": [1], "background": [1]}, "names the value 1 twice"),
        ({"liver": []}, "ingest.label_values.liver"),
        ({"liver": ["one"]}, "ingest.label_values.liver"),
    ],
)
def test_label_values_name_each_structure_and_each_value_once(values: dict[str, Any], reason: str) -> None:
    assert reason in refused(VOLUMES, ingest={"label_values": values})


def test_label_values_are_of_mask_files() -> None:
    assert parse_params(changed(VOLUMES, ingest={"label_values": {"liver": [1, 2]}})).ingest.label_values == {
        "liver": (1, 2)
    }
    assert "but ingest.source phantom reads none; set it to null" in refused(
        PHANTOMS, ingest={"label_values": {"lungs": [255]}}
    )


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        ({"spacing": [1.0, 0.0, 1.0]}, "preprocess.volume.spacing.1 is 0.0"),
        ({"spacing": [1.0, 1.0]}, "preprocess.volume.spacing"),
        ({"spacing": [1.0, 1.0, 1.0], "window": [200, -150]}, "give the lower intensity first"),
        ({"spacing": [1.0, 1.0, 1.0], "window": [5, 5]}, "give the lower intensity first"),
        ({"spacing": [1.0, 1.0, 1.0], "window": [float("nan"), 5]}, "preprocess.volume.window"),
        ({"spacing": [1.0, 1.0, 1.0], "window": [0, float("inf")]}, "preprocess.volume.window"),
        ({"spacing": [1.0, 1.0, 1.0], "depth": 0}, "preprocess.volume.depth is 0"),
        ({}, "preprocess.volume.spacing is missing"),
    ],
)
def test_a_volume_that_makes_no_sense_is_refused(volume: dict[str, Any], reason: str) -> None:
    assert reason in refused(VOLUMES, preprocess={"volume": volume})
