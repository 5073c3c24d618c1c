from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.encrypted_accuracy import answers_of, figures_of
from primia.data.image_set import ImageSet, load_image_set, save_image_set
from primia.encrypted.agreement import plaintext_logits
from primia.encrypted.bundle import load_bundle, make_bundle, save_bundle
from primia.models.polynomial import dense_network

CLASSES = ("normal", "bacterial", "viral")
COUNT = 5


@pytest.fixture
def bundle_and_images(tmp_path: Path) -> tuple[Path, Path]:
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = dense_network(8, 4, 3).eval()
    images = torch.rand(COUNT, 1, 16, 16, generator=generator).half()
    network.record_ranges(network.inputs(images))
    folder = tmp_path / "bundle"
    save_bundle(folder, make_bundle(network, classes=CLASSES, pipeline_pixels=16, teacher_digest="ab" * 32))
    names = tuple(map(str, range(COUNT)))
    labels = torch.tensor([0, 1, 2, 0, 1])
    save_image_set(tmp_path / "test.safetensors", ImageSet(images, labels, labels.clone(), names, CLASSES, CLASSES))
    return folder, tmp_path / "test.safetensors"


@pytest.mark.system
def test_every_image_is_really_encrypted_once_and_a_killed_run_goes_on(bundle_and_images, tmp_path) -> None:
    folder, images = bundle_and_images
    bundle, test = load_bundle(folder), load_image_set(images)
    clear, encrypted = answers_of(folder, images, tmp_path / "kept")
    assert np.allclose(clear, plaintext_logits(bundle, test.images))
    assert 0.0 < np.abs(clear - encrypted).max() < 0.02  # noise: it went through encryption
    path = tmp_path / "kept" / "1.jsonl"  # images 1 and 3
    path.write_text(path.read_text()[:-20])
    _, again = answers_of(folder, images, tmp_path / "kept")
    assert np.array_equal(again[[0, 1, 2, 4]], encrypted[[0, 1, 2, 4]])
    assert not np.array_equal(again[3], encrypted[3])


def test_the_figures_tell_what_encryption_and_the_student_cost(bundle_and_images) -> None:
    folder, images = bundle_and_images
    test = load_image_set(images)
    clear = np.eye(3)[[0, 1, 2, 0, 2]] * 4.0  # one mistake
    encrypted = clear.copy()
    encrypted[0] = [0.0, 0.5, 0.0]  # and another one, under encryption
    told = figures_of(load_bundle(folder), clear, encrypted, test, auc_teacher=1.0)
    assert (told["same_class"], told["images"], told["accuracy"]) == (4, 5, pytest.approx(0.6))
    assert told["logit_error"] == pytest.approx(4.0)
    assert told["auc_difference"] == pytest.approx(told["auc_encrypted"] - told["auc_clear"])
    assert told["auc_encrypted"] < told["auc_clear"] < 1.0
    assert told["below_teacher"] == pytest.approx(1.0 - told["auc_clear"])
    assert (told["front"], told["pixels"]) == ("shrink", 8)
