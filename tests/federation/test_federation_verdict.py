"""Which round is released, and when no further one is trained."""

from dataclasses import replace

import numpy as np
import pytest
from federating import NAMES

from primia.federation.checkpoint import GlobalModel, Progress, RoundRecord, Trained
from primia.federation.drafting import draft_plan
from primia.federation.messages import Description
from primia.federation.server_optimiser import ServerState
from primia.federation.summed_statistics import PooledStatistics
from primia.federation.verdict import judged, reason_to_stop


@pytest.fixture
def plan(params_with):
    def described(name):
        return Description(
            name=name, identity=bytes(32), data="0" * 64, classes=("normal", "bacterial", "viral"), pixels=16
        )

    hospitals = {name: described(name) for name in NAMES}
    return lambda **changes: draft_plan(params_with(**changes), hospitals, privacy=None)


def model(round):
    return GlobalModel(
        round=round,
        head=np.full(2, round, dtype=np.float32),
        average=np.full(2, float(round)),
        server=ServerState(step=round, first=np.zeros(2), second=np.zeros(2)),
    )


def after(plan, *figures):
    """The progress after rounds with these validation MCCs; the model of round r is filled with r."""
    statistics = PooledStatistics(images=30, mean=0.1, std=0.2, counted=NAMES, class_weights=None)
    progress = Progress(statistics=statistics, model=model(0), released=model(0).head)
    for round, mcc in enumerate(figures, start=1):
        trained = Trained(participants=NAMES, clipped_fraction=0.0, seconds=1.0, bytes_up=1)
        progress = replace(progress, before=progress.model, model=model(round), latest=trained, trained=round)
        record = RoundRecord(
            round=round,
            validation_score=mcc,
            validation_accuracy=0.5,
            validation_loss=None,
            epsilon=0.0,
            clipped_fraction=0.0,
            seconds=1.0,
            bytes_up_per_site=1,
            participants=3,
        )
        progress = judged(plan, progress, record)
    return progress


@pytest.mark.parametrize(("release", "round"), [("last", 4), ("best", 2)])
def test_the_last_round_is_released_or_the_best_as_the_plan_says(plan, release, round):
    progress = after(plan(federation__release=release), 0.1, 0.6, 0.2, 0.5)
    assert progress.released_round == round
    assert progress.released.tolist() == [round, round]


def test_a_round_that_is_undone_is_never_released(plan):
    progress = after(plan(federation__release="last", federation__rollback_margin=0.3), 0.5, 0.6, 0.1)
    assert progress.released_round == 2


@pytest.mark.parametrize("release", ["last", "best"])
def test_patience_counts_from_the_best_round_whichever_is_released(plan, release):
    patient = plan(federation__release=release, federation__patience=2)
    assert reason_to_stop(patient, after(patient)) is None
    assert reason_to_stop(patient, after(patient, 0.1, 0.6, 0.2)) is None
    assert "did not improve for 2 rounds" in reason_to_stop(patient, after(patient, 0.1, 0.6, 0.2, 0.5))
