"""The positive control of the inversion code: a network that is known to give its images away."""

import torch
from torch import Tensor, nn

from primia.attacks.reconstruct import gradients_of, reconstruct
from primia.attacks.similarity import psnr
from primia.data.phantom_set import phantom_images

PIXELS = 32
_STEPS = 1500
_SPREAD = 0.2  # of the uniform weights


def lenet(seed: int) -> nn.Module:
    """The LeNet with sigmoids of Zhu et al. 2019, for one channel of 32 pixels and three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, stride in ((1, 2), (12, 2), (12, 1)):
            layers += [nn.Conv2d(inputs, 12, 5, stride=stride, padding=2), nn.Sigmoid()]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(12 * (PIXELS // 4) ** 2, 3))
        for weight in network.parameters():
            nn.init.uniform_(weight, -_SPREAD, _SPREAD)
    return network.double()


def lenet_control(seed: int) -> float:
    """PSNR in dB of a phantom that `reconstruct` finds from the gradient of such a network, starting from grey."""
    network, label = lenet(seed), torch.tensor([seed % 3])
    image = phantom_images(patients=1, pixels=PIXELS, hospitals=("control",), seed=seed).double()

    def gradient_of(images: Tensor) -> Tensor:
        return gradients_of(network, images, label)

    observed = gradient_of(image).detach()
    grey = torch.full_like(image, 0.5)
    found, _ = reconstruct(observed, gradient_of, start=grey, steps=_STEPS, variation=torch.zeros(1))
    return float(psnr(found, image)[0])
