import pytest
import torch
from opacus.validators import ModuleValidator

from primia.errors import ConfigError
from primia.models.networks import build_network
from primia.models.standardised import StandardisedConv2d

ARCHITECTURES = ("scattering", "convnet", "resnet9", "resnet18")
LEARNED = ("convnet", "resnet9", "resnet18")


def flat(network):
    return torch.cat([weight.flatten() for weight in network.state_dict().values()])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_suits_per_sample_gradients_and_answers_with_a_logit_per_class(architecture):
    network = build_network(architecture, classes=4, pixels=64, seed=1)
    assert ModuleValidator.validate(network, strict=False) == []
    assert list(network.front.parameters()) == []
    images = torch.randn(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = network(images)
    assert logits.shape == (3, 4)
    assert torch.isfinite(logits).all()
    assert torch.allclose(network(images[1:2]), logits[1:2], atol=1e-5), "samples must not mix"


@pytest.mark.parametrize("architecture", LEARNED)
def test_with_weight_standardisation_every_convolution_has_it_and_samples_stay_apart(architecture):
    network = build_network(architecture, classes=3, pixels=32, seed=1, weight_standardisation=True)
    plain = build_network(architecture, classes=3, pixels=32, seed=1)
    kinds = {type(module) for module in network.modules() if isinstance(module, torch.nn.Conv2d)}
    assert kinds == {StandardisedConv2d}
    assert ModuleValidator.validate(network, strict=False) == []
    assert torch.equal(flat(network), flat(plain)), "the same weights are drawn"
    images = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = network(images)
    assert torch.isfinite(logits).all()
    assert torch.allclose(network(images[1:2]), logits[1:2], atol=1e-5)


@pytest.mark.parametrize("architecture", LEARNED)
def test_equal_seeds_give_equal_bytes_and_leave_the_global_generator_alone(architecture):
    torch.manual_seed(11)
    first = build_network(architecture, classes=3, pixels=64, seed=1)
    here = torch.rand(1)
    second = build_network(architecture, classes=3, pixels=64, seed=1)
    other = build_network(architecture, classes=3, pixels=64, seed=2)
    torch.manual_seed(11)
    assert torch.equal(here, torch.rand(1))
    assert torch.equal(flat(first), flat(second))
    assert not torch.equal(flat(first), flat(other))


def test_the_networks_have_the_size_they_are_said_to_have():
    def size(architecture, pixels):
        return sum(p.numel() for p in build_network(architecture, classes=3, pixels=pixels, seed=0).parameters())

    assert size("convnet", 64) == 46_739
    assert size("resnet9", 112) == 2_439_875
    assert size("scattering", 112) == 3 * (217 * 14 * 14 + 1)
    assert 11_000_000 < size("resnet18", 224) < 11_300_000


def test_the_scattering_front_forgets_exposure():
    network = build_network("scattering", classes=3, pixels=64, seed=0)
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    features, brighter = network.front(images), network.front(3 * images)
    assert features.mean(dim=(2, 3)).abs().max() < 1e-4
    # The 0.01 inside the logarithm keeps this from being exact.
    assert (features - brighter).square().mean() < 0.05


def test_an_unknown_architecture_and_too_small_images_are_refused():
    with pytest.raises(
        ConfigError, match=r"model.architecture is 'vgg', but only scattering, convnet, resnet9, resnet18"
    ):
        build_network("vgg", classes=3, pixels=64, seed=0)
    with pytest.raises(ConfigError, match="resnet18 needs at least 32"):
        build_network("resnet18", classes=3, pixels=16, seed=0)
    with pytest.raises(ConfigError, match="resnet9 needs at least 32"):
        build_network("resnet9", classes=3, pixels=16, seed=0)
    with pytest.raises(ConfigError, match=r"but preprocess.volume.depth is 16; .* choose jet or unet or monet"):
        build_network("convnet", classes=3, pixels=64, seed=0, depth=16)
