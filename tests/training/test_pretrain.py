import pytest
import torch

from primia.config import Model, Training
from primia.consistency import PHANTOM_STRUCTURES
from primia.data.phantom import PHANTOM_CLASSES
from primia.data.phantom_set import labelled_phantoms, masked_phantoms
from primia.errors import ConfigError
from primia.federation.weights import head_vector, vector_digest
from primia.models.networks import build_network
from primia.training import pretrain
from primia.training.pretrain import initial_network

PIXELS = 32


def settings(**changes):
    basis = {
        "pretrain": "phantom",
        "pretrain_patients": 30,
        "learning_rate": 0.01,
        "pretrain_learning_rate": 1e-3,
        "threads": 1,
    }
    return Training(**{**basis, **changes})


def initial(model=None, classes=PHANTOM_CLASSES, **changes):
    model = model or Model(architecture="scattering")
    return initial_network(model, settings(**changes), classes=classes, pixels=PIXELS)


def digest(network):
    return vector_digest(head_vector(network.head))


@pytest.fixture(scope="module")
def pretrained():
    return initial()


def test_without_pretraining_the_network_is_as_drawn_from_its_seed():
    model = Model(architecture="convnet", weight_standardisation=True, seed=4)
    drawn = build_network("convnet", classes=2, pixels=PIXELS, seed=4, weight_standardisation=True)
    network = initial_network(model, settings(pretrain="none"), classes=("a", "b"), pixels=PIXELS)
    assert digest(network) == digest(drawn)
    assert [type(module) for module in network.modules()] == [type(module) for module in drawn.modules()]


def test_equal_settings_give_equal_bits_and_the_seed_length_and_size_change_them(pretrained):
    threads = torch.get_num_threads()
    torch.manual_seed(17)
    changed = [
        initial(Model(architecture="scattering", seed=2)),
        initial(pretrain_patients=31),
        initial(pretrain_epochs=6),
    ]
    pretrain._taught.cache_clear()
    assert digest(initial()) == digest(pretrained)
    assert len({digest(pretrained), *(digest(network) for network in changed)}) == 4
    assert torch.get_num_threads() == threads


def test_it_tells_phantoms_apart_that_it_has_never_seen():
    images, labels = labelled_phantoms(patients=60, pixels=PIXELS, hospitals=("north", "hill"), seed=5)
    values = (images.float() - images.float().mean()) / images.float().std()
    network = initial(pretrain_patients=150)
    with torch.no_grad():
        right = (network(values).argmax(dim=1) == labels).float().mean()
    assert right > 0.6, "a guess is right in a third"


def test_the_class_order_is_the_one_asked_for_and_other_classes_are_left_out(pretrained):
    weights = dict(pretrained.head.named_parameters())
    swapped = dict(initial(classes=PHANTOM_CLASSES[::-1]).head.named_parameters())
    for name, weight in weights.items():
        assert torch.allclose(swapped[name].flip(0), weight, atol=1e-5), name
    two = initial(classes=("viral", "normal"))
    assert two(torch.zeros(1, 1, PIXELS, PIXELS)).shape == (1, 2)


def test_pretraining_that_diverges_is_refused_with_the_way_out():
    with pytest.raises(
        ConfigError, match=r"diverged at training.pretrain_learning_rate 100.*training.pretrain to none"
    ):
        initial(Model(architecture="convnet"), pretrain_learning_rate=100.0, weight_decay=1.0, pretrain_epochs=6)


def test_whoever_trains_on_changes_no_later_start(pretrained):
    before = digest(pretrained)
    with torch.no_grad():
        for weight in initial().head.parameters():
            weight.zero_()
    assert digest(initial()) == before


def segmenting(classes, **changes):
    model = Model.model_construct(architecture="monet")
    options = {"pretrain_learning_rate": 0.05, "pretrain_epochs": 4, "augment": False, **changes}
    return initial_network(model, settings(**options), classes=classes, pixels=PIXELS)


def test_a_network_that_segments_finds_lungs_that_it_has_never_seen():
    images, masks = masked_phantoms(patients=20, pixels=PIXELS, hospitals=("north", "hill"), seed=5)
    values = (images.float() - images.float().mean()) / images.float().std()
    network = segmenting(PHANTOM_STRUCTURES, pretrain_patients=60)
    with torch.no_grad():
        found = network(values).argmax(dim=1)
    assert 2 * (found * masks).sum() / (found.sum() + masks.sum()) > 0.8


def test_where_other_structures_are_to_be_found_the_last_layer_is_as_drawn():
    lungs = segmenting(PHANTOM_STRUCTURES).head.state_dict()
    others = segmenting(("background", "anterior", "posterior")).head.state_dict()
    drawn = build_network("monet", classes=3, pixels=PIXELS, seed=Model(architecture="convnet").seed).head.state_dict()
    last = {name for name in drawn if name.startswith("last.")}
    assert last == {"last.weight", "last.bias"}
    for name, weight in others.items():
        assert torch.equal(weight, drawn[name] if name in last else lungs[name]), name
    assert not torch.equal(lungs["down.0.0.0.weight"], drawn["down.0.0.0.weight"])


def test_volumes_are_not_pretrained_on_images():
    with pytest.raises(
        ConfigError, match=r"phantoms are images and preprocess\.volume\.depth is 8; set training.pretrain"
    ):
        initial_network(
            Model.model_construct(architecture="unet"), settings(), classes=("a", "b"), pixels=PIXELS, depth=8
        )
