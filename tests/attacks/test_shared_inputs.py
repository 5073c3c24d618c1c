"""Parts that run side by side share what heads see of the images."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from scenes import images_of, scene_of

from primia.attacks import shared_inputs as shared
from primia.attacks.scene import inputs_of
from primia.attacks.shared_inputs import SharedInputs, shared_inputs


def test_several_threads_compute_every_block_once_and_get_one_tensor(monkeypatch):
    scene, images, blocks = scene_of(), images_of(160).images, []

    def counted(model, block):
        blocks.append((threading.get_ident(), block.data_ptr()))
        together.wait()  # nobody does everything alone
        return inputs_of(model, block)

    together = threading.Barrier(5, timeout=60)
    monkeypatch.setattr(shared, "inputs_of", counted)
    inputs = SharedInputs(scene, images)
    with ThreadPoolExecutor(5) as pool:
        answers = [each.result() for each in [pool.submit(inputs.all) for _ in range(5)]]
    assert len(blocks) == len({place for _, place in blocks}) == 5 and len({thread for thread, _ in blocks}) == 5
    assert all(answer is answers[0] for answer in answers)
    assert torch.equal(answers[0], inputs_of(scene.released, images))
    assert inputs.all() is answers[0] and len(blocks) == 5


def test_a_failure_reaches_everybody_who_waits(monkeypatch):
    together = threading.Barrier(2, timeout=60)

    def breaks(model, block):
        together.wait()
        raise MemoryError("none left")

    monkeypatch.setattr(shared, "inputs_of", breaks)
    inputs = SharedInputs(scene_of(), images_of(160).images)
    with ThreadPoolExecutor(2) as pool:
        for answer in [pool.submit(inputs.all) for _ in range(2)]:
            with pytest.raises(MemoryError, match="none left"):
                answer.result(timeout=60)
    with pytest.raises(MemoryError):
        inputs.all()


def test_a_scene_keeps_its_inputs_and_another_one_does_not_get_them():
    one, other, images = scene_of(), scene_of(), images_of(10).images
    assert shared_inputs(one, images) is shared_inputs(one, images)
    first = shared_inputs(one, images)
    assert shared_inputs(other, images) is not first
    assert len(shared_inputs(one, images).all()) == 20
