import pytest
import torch
from torch import Tensor

from primia.config import Encryption
from primia.encrypted.compiler import compile_network
from primia.encrypted.distil import distil
from primia.errors import EncryptionError

SETTINGS = Encryption(pixels=8, hidden=32, epochs=12, learning_rate=5e-3, seed=3)


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
    mass = weight.sum(dim=(1, 2))
    down, right = (weight.sum(dim=2) @ places) / mass, (weight.sum(dim=1) @ places) / mass
    signs = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
    return torch.stack([6 * ((y * down).relu() + (x * right).relu()) for y, x in signs], dim=1)


def test_the_student_agrees_with_the_teacher_on_images_neither_has_seen() -> None:
    losses: list[float] = []
    network = distil(teacher, blobs(600, seed=2), settings=SETTINGS, on_epoch=lambda epoch, loss: losses.append(loss))
    fresh = blobs(300, seed=4).float()
    with torch.no_grad():
        student, taught = network(network.inputs(fresh)), teacher(fresh)
    assert not network.training
    assert float((student.argmax(1) == taught.argmax(1)).float().mean()) > 0.93
    spread = taught - taught.mean(dim=1, keepdim=True)
    assert float((student - spread).square().mean() / spread.square().mean()) < 0.1  # in the teacher's own scale
    assert len(losses) == SETTINGS.epochs
    assert losses[-1] < losses[0] / 3
    assert len(compile_network(network).matrices) == 3  # its ranges were recorded and fit


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    settings = SETTINGS.model_copy(update={"epochs": 2})
    images = blobs(64, seed=5)
    before = torch.get_rng_state()
    first, second = (distil(teacher, images, settings=settings) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_teacher_without_a_finite_answer_is_refused() -> None:
    with pytest.raises(EncryptionError, match="not finite"):
        distil(lambda images: torch.full((len(images), 3), torch.nan), blobs(4, seed=1), settings=SETTINGS)


def test_a_single_image_is_refused() -> None:
    with pytest.raises(EncryptionError, match=r"got 1 image\(s\)"):
        distil(teacher, blobs(1, seed=1), settings=SETTINGS)


def test_a_teacher_whose_logits_would_overflow_is_refused_at_export() -> None:
    network = distil(lambda images: 1e4 * images.mean(dim=3)[:, 0, :3], blobs(32, seed=1), settings=SETTINGS)
    with pytest.raises(EncryptionError, match="Layer 3 gives logits up to"):
        compile_network(network)
