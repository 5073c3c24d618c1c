import numpy as np
import pytest

from primia.errors import FederationError
from primia.federation.summed_changes import check_training, train_layout
from primia.federation.summed_statistics import check_statistics, statistics_layout
from primia.federation.summed_validation import (
    check_validation,
    evaluate_layout,
)


@pytest.mark.parametrize("private", [False, True])
def test_sums_whose_masks_did_not_cancel_are_not_believed(plan_with, private_plan, private):
    plan = private_plan if private else plan_with()
    stream = np.random.default_rng(1)
    cases = (
        (lambda totals: check_statistics(plan, totals, sites=3), statistics_layout(plan)),
        (lambda totals: check_validation(plan, totals, sites=3), evaluate_layout(plan)),
        (
            lambda totals: check_training(plan, totals, sites=3, total_weight=500),
            train_layout(plan, parameters=50, total_weight=500),
        ),
    )
    for check, layout in cases:
        garbage = stream.integers(0, 2**32, size=layout.size, dtype=np.uint32)
        with pytest.raises(FederationError, match="outside what it can be"):
            check(layout.unpack(garbage))
        check(layout.unpack(np.zeros(layout.size, dtype=np.uint32)))
