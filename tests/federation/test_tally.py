import math

import numpy as np
import pytest
import torch
from federating import NAMES
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

from primia.errors import FederationError
from primia.federation.messages import Description
from primia.federation.plan import draft_plan
from primia.federation.tally import (
    PooledStatistics,
    WeightBound,
    check_statistics,
    check_training,
    check_validation,
    evaluate_layout,
    evaluate_values,
    mcc_of_confusion,
    pooled_statistics,
    statistics_layout,
    statistics_values,
    train_layout,
    validation,
    weight_bound,
    weighted_loss,
)


@pytest.fixture
def plan(params_with):
    params = params_with()
    described = {
        name: Description(name=name, identity=bytes(32), data="0" * 64, classes=params.ingest.classes, pixels=16)
        for name in params.preprocess.hospitals
    }
    return lambda **changes: draft_plan(params_with(**changes), described, privacy=None)


def labels(n):
    return torch.arange(n) % 3


def totals(*parts):
    return {key: sum(np.atleast_1d(np.asarray(p[key], dtype=np.int64)) for p in parts) for key in parts[0]}


def test_pooled_statistics_are_those_of_all_images_together(plan):
    random = torch.Generator().manual_seed(1)
    sites = [torch.rand(n, 1, 8, 8, generator=random) ** power for n, power in ((3, 1), (50, 2), (20, 4))]
    together = torch.cat(sites).double()
    parts = [statistics_values(plan(), images.half(), labels(len(images))) for images in sites]
    pooled = pooled_statistics(totals(*parts), counted=NAMES)
    assert pooled.counted == ("hill", "north", "river")
    assert pooled.class_weights is None
    assert pooled.images == 73
    assert pooled.mean == pytest.approx(float(together.mean()), abs=2e-4)
    assert pooled.std == pytest.approx(float(together.std(correction=0)), abs=2e-4)


def test_blank_images_keep_a_positive_deviation(plan):
    values = statistics_values(plan(), torch.zeros(4, 1, 8, 8), labels(4))
    assert pooled_statistics(totals(values), counted=NAMES).std == pytest.approx(1e-3)


def test_no_image_at_all_is_an_error(plan):
    values = statistics_values(plan(), torch.zeros(0, 1, 8, 8), labels(0))
    with pytest.raises(FederationError, match="No hospital holds a training image"):
        pooled_statistics(totals(values), counted=NAMES)


def test_class_weights_come_from_the_label_counts_of_all_sites(plan):
    weighing = plan(training__class_weights=True)
    sites = [torch.tensor([0, 0, 0, 1]), torch.tensor([0, 2])]
    parts = [statistics_values(weighing, torch.rand(len(held), 1, 8, 8), held) for held in sites]
    pooled = pooled_statistics(totals(*parts), counted=NAMES)
    assert pooled.class_weights == pytest.approx((6 / (3 * 4), 6 / 3, 6 / 3))


def test_hospitals_that_the_statistics_missed_share_what_is_left_of_a_sum(plan):
    def bound(images, counted, bits=20):
        statistics = PooledStatistics(images=images, mean=0.0, std=1.0, counted=counted)
        return weight_bound(plan(secure_aggregation__bits=bits), statistics)

    assert bound(144, NAMES) == WeightBound(total=144, spare=0)
    assert bound(96, NAMES[:2]) == WeightBound(total=4096, spare=4000)
    assert bound(97, NAMES[:1]) == WeightBound(total=97 + 2 * 1999, spare=1999)
    assert bound(5000, NAMES[:2]) == WeightBound(total=5000, spare=0)


def test_the_weighted_loss_is_finite_and_fits_its_word(plan):
    assert weighted_loss(plan(), 1.5, weight=10).tolist() == [15 * 256]
    assert weighted_loss(plan(), float("nan"), weight=10).tolist() == [0]
    assert weighted_loss(plan(), 1e9, weight=10).tolist() == [320 * 256]
    assert weighted_loss(plan(), 32.0, weight=10**9).tolist() == [(2**32 - 1) // 3]


def test_validation_counts_add_up_over_sites():
    random = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(40, 3, generator=random), torch.randint(0, 3, (40,), generator=random)
    parts = [evaluate_values(logits[part], labels[part]) for part in (slice(0, 7), slice(7, 30), slice(30, 40))]
    pooled = validation(totals(*parts))
    assert pooled.accuracy == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert pooled.mcc == pytest.approx(matthews_corrcoef(labels, logits.argmax(1)))
    assert pooled.loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), abs=1e-3)
    assert parts[0]["confusion"].reshape(3, 3).sum(axis=1).tolist() == np.bincount(labels[:7], minlength=3).tolist()


def test_a_hopeless_loss_is_bounded():
    values = evaluate_values(torch.tensor([[1e6, 0.0]]), torch.tensor([1]))
    assert values["loss"] == 32 * 256


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
@settings(deadline=None)
def test_mcc_of_counts_agrees_with_scikit_learn(pairs):
    actual, predicted = zip(*pairs, strict=True)
    confusion = np.zeros((4, 4), dtype=np.int64)
    np.add.at(confusion, (actual, predicted), 1)
    expected = 0.0 if len(set(actual)) == 1 or len(set(predicted)) == 1 else matthews_corrcoef(actual, predicted)
    assert mcc_of_confusion(confusion) == pytest.approx(expected)


def test_mcc_of_counts_is_exact_for_many_images():
    confusion = np.array([[10**6, 0], [0, 10**6]])
    assert mcc_of_confusion(confusion) == 1.0


def test_no_image_makes_the_difference_between_an_answer_and_an_error():
    logits = torch.tensor([[math.nan, 0.0, 1.0], [math.inf, 0.0, -math.inf]])
    values = evaluate_values(logits, torch.tensor([0, 1]))
    assert values["confusion"].sum() == 2
    assert values["loss"] == 2**8 * 32 + round(2**8 * float(torch.logsumexp(torch.tensor([0.0, 0.0, 1.0]), 0)))


def test_sums_whose_masks_did_not_cancel_are_not_believed(plan):
    plan = plan()
    stream = np.random.default_rng(1)
    layouts = {
        check_statistics: statistics_layout(plan),
        check_validation: evaluate_layout(plan),
        lambda totals: check_training(plan, totals, sites=3, total_weight=500): train_layout(
            plan, parameters=50, total_weight=500
        ),
    }
    for check, layout in layouts.items():
        garbage = stream.integers(0, 2**32, size=layout.size, dtype=np.uint32)
        with pytest.raises(FederationError, match="outside what it can be"):
            check(layout.unpack(garbage))
        check(layout.unpack(np.zeros(layout.size, dtype=np.uint32)))
