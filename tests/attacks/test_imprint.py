import dataclasses

import pytest
import torch
from scenes import SMALL, images_of, report_of, scene_of

from primia.attacks.contract import Verdict
from primia.attacks.imprint import Imprint, ImprintedNetwork, shrinking
from primia.errors import DataError
from primia.training.private import private_gradient

FEW = dataclasses.replace(SMALL, imprint_trials=40)


def scene(**changes):
    return scene_of(**({"candidates": images_of(60), "budget": FEW} | changes))


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    return report_of(Imprint("first"), scene(), tmp_path_factory.mktemp("honest"))


def test_a_bin_shows_an_image_exactly_without_defence(honest):
    assert honest.outcome.positive.rate > 0.9
    assert honest.outcome.facts["psnr"] > 60
    assert honest.outcome.facts["alone"] > 0.6
    assert honest.outcome.facts["shape"] == [16, 16]


def test_of_large_images_means_over_blocks_are_caught(tmp_path, monkeypatch):
    monkeypatch.setattr("primia.attacks.imprint._MOST_VALUES", 64)
    outcome = report_of(Imprint("first"), scene(), tmp_path).outcome
    assert outcome.facts["shape"] == [8, 8]
    assert outcome.positive.rate > 0.9 and outcome.facts["psnr"] > 60


@pytest.mark.parametrize(
    ("shape", "blocks"), [((112, 112), (112, 112)), ((224, 200), (112, 100)), ((64, 64, 48), (22, 22, 16))]
)
def test_the_finest_blocks_are_taken_that_a_layer_can_be_sent_for(shape, blocks):
    shrink, expected = shrinking(shape)
    assert tuple(expected) == blocks == shrink(torch.zeros(1, 1, *shape)).shape[2:]


def test_private_steps_show_nothing_whatever_network_was_sent(honest):
    assert honest.verdict is Verdict.PASS
    assert honest.outcome.trials.interval(0.95)[0] <= honest.outcome.bound


def test_clipping_alone_is_no_defence_against_it(tmp_path):
    def silent(head, *, noise_multiplier, **step):
        return private_gradient(head, noise_multiplier=0.0, **step)

    report = report_of(Imprint("first"), scene(step=silent), tmp_path)
    assert report.verdict is Verdict.FAIL
    assert report.outcome.trials.rate > 0.9


def test_without_privacy_it_fails(tmp_path):
    report = report_of(Imprint("first"), scene(declared=None), tmp_path)
    assert report.verdict is Verdict.FAIL and report.outcome.bound is None


def test_neighbouring_bins_differ_by_the_image_between_their_edges():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(5, 1, 8, 8, generator=generator)
    measure = torch.randn(64, generator=generator) / 8
    order = (images.flatten(1) @ measure).argsort()
    ranked = (images.flatten(1) @ measure)[order]
    edges = torch.cat([ranked[:1] - 1, (ranked[1:] + ranked[:-1]) / 2, ranked[-1:] + 1])
    network = ImprintedNetwork(measure, edges, classes=3)
    torch.nn.functional.cross_entropy(network(images), torch.zeros(5, dtype=torch.int64)).backward()
    bins = network.body[1]
    between = torch.diff(bins.weight.grad, dim=0) / torch.diff(bins.bias.grad)[:, None]
    torch.testing.assert_close(between, images.flatten(1)[order], atol=1e-3, rtol=1e-3)


def test_too_few_candidates_are_refused(tmp_path):
    with pytest.raises(DataError, match="needs 24 candidate patients, but there are 20"):
        report_of(Imprint("first"), scene(candidates=images_of(20)), tmp_path)
