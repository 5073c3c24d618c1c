import numpy as np
import torch

from primia.training.mixup import mix


def test_a_blend_is_the_share_of_each_image_and_the_rest_of_its_partner():
    batch = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    blends, partner, share = mix(batch, alpha=0.5, stream=np.random.default_rng(3))
    assert sorted(partner.tolist()) == list(range(6))
    for blend, image, other in zip(blends, batch, partner.tolist(), strict=True):
        assert torch.allclose(blend, share * image + (1 - share) * batch[other])


def test_the_share_follows_the_beta_distribution():
    stream, batch = np.random.default_rng(3), torch.zeros(1, 1)
    shares = np.array([mix(batch, alpha=0.4, stream=stream)[2] for _ in range(4000)])
    assert 0 <= shares.min() < shares.max() <= 1
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01  # of Beta(a, a): 1 / (4 (2 a + 1))
