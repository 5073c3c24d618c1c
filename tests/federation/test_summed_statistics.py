import numpy as np
import pytest
import torch
from federating import NAMES, totals

from primia.errors import FederationError
from primia.federation.summed_statistics import check_statistics, pooled_statistics, statistics_values
from primia.privacy.noise import SystemNoise


def said(plan, images, labels=None, patients=None):
    """One hospital's part; without `patients` every image is of another one."""
    own = torch.arange(len(images))
    labels = own % 3 if labels is None else labels
    return statistics_values(plan, images, labels, own if patients is None else patients, noise=SystemNoise())


def test_pooled_statistics_are_those_of_all_images_together(plan_with):
    random = torch.Generator().manual_seed(1)
    sites = [torch.rand(n, 1, 8, 8, generator=random) ** power for n, power in ((3, 1), (50, 2), (20, 4))]
    together = torch.cat(sites).double()
    parts = [said(plan_with(), images.half()) for images in sites]
    pooled = pooled_statistics(totals(*parts), counted=NAMES)
    assert pooled.counted == ("hill", "north", "river")
    assert pooled.class_weights is None
    assert pooled.images == 73
    assert pooled.mean == pytest.approx(float(together.mean()), abs=2e-4)
    assert pooled.std == pytest.approx(float(together.std(correction=0)), abs=2e-4)


def test_blank_images_keep_a_positive_deviation(plan_with):
    values = said(plan_with(), torch.zeros(4, 1, 8, 8))
    assert pooled_statistics(totals(values), counted=NAMES).std == pytest.approx(1e-3)


def test_no_image_at_all_is_an_error(plan_with):
    values = said(plan_with(), torch.zeros(0, 1, 8, 8))
    with pytest.raises(FederationError, match="No hospital holds a training image"):
        pooled_statistics(totals(values), counted=NAMES)


def test_class_weights_come_from_the_label_counts_of_all_sites(plan_with):
    weighing = plan_with(training__class_weights=True)
    sites = [torch.tensor([0, 0, 0, 1]), torch.tensor([0, 2])]
    parts = [said(weighing, torch.rand(len(held), 1, 8, 8), held) for held in sites]
    pooled = pooled_statistics(totals(*parts), counted=NAMES)
    assert pooled.class_weights == pytest.approx((6 / (3 * 4), 6 / 3, 6 / 3))


def test_with_differential_privacy_they_are_those_of_patients_up_to_the_noise(private_plan):
    random = torch.Generator().manual_seed(1)
    images = torch.rand(9000, 1, 4, 4, generator=random)
    images[3000:] *= 0.1  # the patients with many images are dark ones
    patients = torch.cat([torch.arange(3000), 3000 + torch.arange(6000) // 6])
    pooled = pooled_statistics(totals(said(private_plan, images, patients=patients)), counted=NAMES)
    # Noise of 2 sqrt(3) patients on 4,000: less than 0.1 %; ten deviations.
    assert pooled.images == pytest.approx(4000, rel=0.009)
    assert pooled.mean == pytest.approx(0.75 * 0.5 + 0.25 * 0.05, abs=0.01)


def test_with_differential_privacy_two_answers_differ(private_plan):
    images = torch.rand(50, 1, 4, 4)
    first, second = (said(private_plan, images)["moments"].tolist() for _ in range(2))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_noise_that_hides_everybody_is_told(private_plan):
    with pytest.raises(FederationError, match=r"lower privacy\.statistics_noise"):
        pooled_statistics({"moments": np.array([-300, 50, 20])}, counted=NAMES)


def test_moments_that_only_noise_explains_still_give_numbers_for_images(private_plan):
    for moments in ([1000, -400, 900], [1000, 2000, -300], [1000, 900, 2000]):
        pooled = pooled_statistics({"moments": np.array(moments)}, counted=NAMES)
        assert 0 <= pooled.mean <= 1 and 1e-3 <= pooled.std <= 1


def test_honest_sums_with_noise_are_believed_and_others_not(private_plan):
    honest = totals(*[said(private_plan, torch.rand(20, 1, 4, 4)) for _ in NAMES])
    check_statistics(private_plan, honest, sites=3)
    for wrong in ([2**30, 2**29, 2**28], [5000, 500_000, 300], [5000, 2000, 500_000], [5000, -500_000, 300]):
        with pytest.raises(FederationError, match="outside what it can be"):
            check_statistics(private_plan, {"moments": np.array(wrong)}, sites=3)
