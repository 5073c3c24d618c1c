import copy

import pytest
import torch
from opacus.validators import ModuleValidator
from torch import nn

from primia.errors import ConfigError
from primia.models.monet import DecreasingDilation
from primia.models.networks import SEGMENTING, build_network
from primia.models.segmenting import Joined
from primia.models.standardised import StandardisedConv2d, StandardisedConv3d

# With its depth, and how many levels are joined.
NETWORKS = [("unet", None, 3), ("monet", None, 2), ("unet_resnet18", None, 4), ("unet", 16, 3), ("monet", 16, 2)]
EACH = pytest.mark.parametrize(("architecture", "depth", "joins"), NETWORKS)
SIDE = 32


def build(architecture, depth, **changes):
    return build_network(architecture, **{"classes": 3, "pixels": SIDE, "seed": 1, "depth": depth, **changes})


def scans(depth, n=2):
    shape = (n, 1, SIDE, SIDE) if depth is None else (n, 1, SIDE, SIDE, depth)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def joined(network):
    return [module for module in network.modules() if isinstance(module, Joined)]


def test_every_network_that_segments_is_tested_here():
    assert {architecture for architecture, _, _ in NETWORKS} == SEGMENTING - {"jet"}


@EACH
def test_every_pixel_gets_a_logit_per_class_and_samples_do_not_mix(architecture, depth, joins):
    network, images = build(architecture, depth, classes=4), scans(depth)
    logits = network(images)
    assert logits.shape == (2, 4, *images.shape[2:])
    assert torch.isfinite(logits).all()
    assert torch.allclose(network(images[1:]), logits[1:], atol=1e-5)
    assert ModuleValidator.validate(network, strict=False) == []
    assert list(network.front.parameters()) == []
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@EACH
def test_every_skip_connection_carries_the_image_up_and_the_gradient_down(architecture, depth, joins):
    network, images = build(architecture, depth), scans(depth)
    whole = network(images)
    found = joined(network)
    assert len(found) == joins
    for join in found:
        skipped = []

        def without(module, arguments, skipped=skipped):
            maps, skip = arguments
            skipped.append(skip)
            return maps, torch.zeros_like(skip)

        hook = join.register_forward_pre_hook(without)
        cut = network(images)
        hook.remove()
        assert (cut - whole).abs().mean() > 0.01 * whole.abs().mean(), "nothing came through"
        assert skipped[0].std() > 0

    kept = []
    hooks = [join.register_forward_pre_hook(lambda module, arguments: kept.append(arguments[1])) for join in found]
    logits = network(images)
    for hook in hooks:
        hook.remove()
    for gradient in torch.autograd.grad(logits.square().sum(), kept):
        assert (gradient.flatten(2).abs().amax(dim=2) > 0).all(), "every channel learns"


@EACH
def test_with_what_comes_from_below_cut_off_only_skips_are_left(architecture, depth, joins):
    network, images = build(architecture, depth), scans(depth)
    whole = network(images)
    lowest = joined(network)[0]
    hook = lowest.register_forward_pre_hook(lambda module, arguments: (torch.zeros_like(arguments[0]), arguments[1]))
    assert (network(images) - whole).abs().mean() > 1e-3 * whole.abs().mean(), "the lowest level takes part, too"
    hook.remove()


@EACH
def test_equal_seeds_give_equal_bytes_and_leave_the_global_generator_alone(architecture, depth, joins):
    def flat(network):
        return torch.cat([weight.flatten() for weight in network.state_dict().values()])

    torch.manual_seed(11)
    first = flat(build(architecture, depth))
    here = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(here, torch.rand(1))
    assert torch.equal(first, flat(build(architecture, depth)))
    assert not torch.equal(first, flat(build(architecture, depth, seed=2)))
    standardised = build(architecture, depth, weight_standardisation=True)
    assert torch.equal(first, flat(standardised)), "the same weights are drawn"


@EACH
def test_with_weight_standardisation_all_but_the_last_convolution_have_it(architecture, depth, joins):
    network = build(architecture, depth, weight_standardisation=True)
    plain, kind = (nn.Conv2d, StandardisedConv2d) if depth is None else (nn.Conv3d, StandardisedConv3d)
    *others, last = [module for module in network.modules() if isinstance(module, plain)]
    assert last is network.head.last
    assert type(last) is plain
    assert {type(module) for module in others} == {kind}
    assert torch.isfinite(network(scans(depth))).all()


def test_the_networks_have_the_size_they_are_said_to_have():
    def size(architecture, depth=None):
        return sum(weight.numel() for weight in build(architecture, depth).parameters())

    assert size("unet") == 450_115
    assert size("unet", 16) == 1_325_923
    assert size("monet") == 310_723
    assert size("monet", 16) == 943_843
    assert size("unet_resnet18") == 13_710_227


@EACH
def test_images_of_any_side_are_filled_up_and_the_answer_is_cut_back(architecture, depth, joins):
    side = 45
    network = build(architecture, depth, pixels=side)
    shape = (2, 1, side, side - 9) if depth is None else (2, 1, side, side - 9, depth + 3)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = network(images)
    assert logits.shape == (2, 3, *shape[2:])
    more = [-length % network.head.smallest for length in shape[2:]]
    filled = nn.functional.pad(images, [0, more[-1], 0, more[-2], *([0, more[0]] if depth else [])], mode="replicate")
    assert torch.equal(logits, network(filled)[(..., *map(slice, shape[2:]))])
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert (gradient != 0).float().mean() > 0.99, "every pixel matters"


def test_sizes_that_cannot_be_halved_often_enough_are_refused():
    with pytest.raises(ConfigError, match=r"preprocess.pixels is 2, but monet halves .* stands for 4; choose at least"):
        build("monet", None, pixels=2)
    with pytest.raises(ConfigError, match=r"preprocess.volume.depth is 6, but unet halves .* stands for 8; choose"):
        build("unet", 6)
    with pytest.raises(ConfigError, match=r"unet_resnet18, which takes images, but preprocess.volume.depth is 16"):
        build("unet_resnet18", 16)


def test_the_blocks_of_monet_see_far_first_and_carry_what_came_in_past_each_pair():
    block = DecreasingDilation(8, convolution=nn.Conv2d)
    assert [step[0].dilation for step in block.steps] == [(4, 4), (3, 3), (2, 2), (1, 1)]
    maps = torch.randn(1, 8, 24, 24, generator=torch.Generator().manual_seed(0))
    for silent in (0, 2):  # the first of a pair
        quiet = copy.deepcopy(block)
        for weight in quiet.steps[silent].parameters():
            nn.init.zeros_(weight)
        assert float(quiet(maps).detach().std()) > 0.1
