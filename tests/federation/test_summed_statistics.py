import pytest
import torch
from federating import NAMES, totals

from primia.errors import FederationError
from primia.federation.summed_statistics import (
    pooled_statistics,
    statistics_values,
)


def test_pooled_statistics_are_those_of_all_images_together(plan_with):
    random = torch.Generator().manual_seed(1)
    sites = [torch.rand(n, 1, 8, 8, generator=random) ** power for n, power in ((3, 1), (50, 2), (20, 4))]
    together = torch.cat(sites).double()
    parts = [statistics_values(plan_with(), images.half(), torch.arange(len(images)) % 3) for images in sites]
    pooled = pooled_statistics(totals(*parts), counted=NAMES)
    assert pooled.counted == ("hill", "north", "river")
    assert pooled.class_weights is None
    assert pooled.images == 73
    assert pooled.mean == pytest.approx(float(together.mean()), abs=2e-4)
    assert pooled.std == pytest.approx(float(together.std(correction=0)), abs=2e-4)


def test_blank_images_keep_a_positive_deviation(plan_with):
    values = statistics_values(plan_with(), torch.zeros(4, 1, 8, 8), torch.arange(4) % 3)
    assert pooled_statistics(totals(values), counted=NAMES).std == pytest.approx(1e-3)


def test_no_image_at_all_is_an_error(plan_with):
    values = statistics_values(plan_with(), torch.zeros(0, 1, 8, 8), torch.arange(0) % 3)
    with pytest.raises(FederationError, match="No hospital holds a training image"):
        pooled_statistics(totals(values), counted=NAMES)


def test_class_weights_come_from_the_label_counts_of_all_sites(plan_with):
    weighing = plan_with(training__class_weights=True)
    sites = [torch.tensor([0, 0, 0, 1]), torch.tensor([0, 2])]
    parts = [statistics_values(weighing, torch.rand(len(held), 1, 8, 8), held) for held in sites]
    pooled = pooled_statistics(totals(*parts), counted=NAMES)
    assert pooled.class_weights == pytest.approx((6 / (3 * 4), 6 / 3, 6 / 3))
