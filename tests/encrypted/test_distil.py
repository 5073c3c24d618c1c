import pytest
import torch
from torch import Tensor

from primia.config import Encryption
from primia.encrypted.compiler import compile_network
from primia.encrypted.distil import CHANGED_COPIES, distil, lessons_from
from primia.errors import EncryptionError

SETTINGS = Encryption(pixels=8, epochs=15, learning_rate=5e-3, seed=3)


def blobs(count: int, *, seed: int) -> Tensor:
    """Images (n, 1, 32, 32) with a bright disc somewhere."""
    generator = torch.Generator().manual_seed(seed)
    centre = 6 + 20 * torch.rand(count, 2, 1, 1, generator=generator)
    radius = 3 + 5 * torch.rand(count, 1, 1, generator=generator)
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    distance = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2).sqrt()
    return (0.2 + 0.6 * torch.sigmoid(radius - distance)).unsqueeze(1).to(torch.float16)


def teacher(images: Tensor) -> Tensor:
    """Four logits with kinks, one per quarter, from the place of the disc."""
    weight = (images.float() - 0.2).clamp_min(0.0)[:, 0]
    places = torch.linspace(-1.0, 1.0, 32)
    mass = weight.sum(dim=(1, 2)).clamp_min(1e-3)
    down, right = (weight.sum(dim=2) @ places) / mass, (weight.sum(dim=1) @ places) / mass
    signs = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    return torch.stack([6 * ((y * down).relu() + (x * right).relu()) for y, x in signs], dim=1)


def test_the_student_agrees_with_the_teacher_on_images_neither_has_seen() -> None:
    losses: list[float] = []
    lessons = lessons_from(teacher, blobs(600, seed=2), seed=1)
    network = distil(lessons, settings=SETTINGS, on_epoch=lambda epoch, loss: losses.append(loss))
    fresh = blobs(300, seed=4).float()
    with torch.no_grad():
        student, taught = network(network.inputs(fresh)), teacher(fresh)
    assert not network.training
    assert float((student.argmax(1) == taught.argmax(1)).float().mean()) > 0.93
    spread = taught - taught.mean(dim=1, keepdim=True)
    assert float((student - spread).square().mean() / spread.square().mean()) < 0.1  # in the teacher's own scale
    assert len(losses) == SETTINGS.epochs
    assert losses[-1] < losses[0] / 3
    assert compile_network(network).largest == tuple(network.largest.tolist())  # the ranges were recorded and fit


def test_the_teacher_is_asked_about_the_very_copies_that_the_student_sees() -> None:
    images = blobs(20, seed=6)
    lessons = lessons_from(teacher, images, seed=1)
    assert len(lessons.images) == 20 * (1 + CHANGED_COPIES)
    assert torch.equal(lessons.images[:20], images) and not torch.equal(lessons.images[20:40], images)
    assert torch.allclose(lessons.logits, teacher(lessons.images))
    assert float(lessons.images.min()) >= 0.0 and float(lessons.images.max()) <= 1.0
    centred = lessons.logits - lessons.logits.mean(dim=1, keepdim=True)
    assert lessons.spread == pytest.approx(float(centred.std()))


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    settings = SETTINGS.model_copy(update={"epochs": 2})
    images = blobs(64, seed=5)
    before = torch.get_rng_state()
    first, second = (distil(lessons_from(teacher, images, seed=1), settings=settings) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_teacher_without_a_finite_answer_is_refused() -> None:
    with pytest.raises(EncryptionError, match="not finite"):
        lessons_from(lambda images: torch.full((len(images), 3), torch.nan), blobs(4, seed=1), seed=1)


def test_a_single_image_is_refused() -> None:
    with pytest.raises(EncryptionError, match=r"got 1 image\(s\)"):
        lessons_from(teacher, blobs(1, seed=1), seed=1)


def test_a_teacher_whose_logits_would_overflow_is_refused_at_export() -> None:
    lessons = lessons_from(lambda images: 1e4 * images.mean(dim=3)[:, 0, :3], blobs(32, seed=1), seed=1)
    with pytest.raises(EncryptionError, match="gives logits up to"):
        compile_network(distil(lessons, settings=SETTINGS))
