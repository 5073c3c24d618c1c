import pytest
import torch

from primia.encrypted.agreement import encrypted_agreement
from primia.errors import EncryptionError


def test_encrypted_answers_agree_with_the_network_in_the_clear(small) -> None:
    images = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)).to(torch.float16)
    found = encrypted_agreement(small.bundle, images, image_ids=("a", "b", "c"))
    assert found.agreement == 1.0
    assert 0.0 < found.logit_error < 1e-2
    assert [(row.image, row.label) for row in found.rows[:4]] == [
        ("a", "normal"),
        ("a", "bacterial"),
        ("a", "viral"),
        ("b", "normal"),
    ]
    expected = small.network(small.network.inputs(images)).flatten().tolist()
    assert [row.plaintext for row in found.rows] == pytest.approx(expected, abs=1e-4)
    assert found.logit_error == max(abs(row.plaintext - row.encrypted) for row in found.rows)
    assert 0 < found.evaluation_s < found.latency_s
    assert found.reply_bytes < found.upload_bytes < found.keys_bytes


def test_names_must_be_as_many_as_images(small) -> None:
    with pytest.raises(EncryptionError, match="as many names as images"):
        encrypted_agreement(small.bundle, torch.rand(2, 1, 16, 16), image_ids=("a",))
