from pathlib import Path

import pytest
from describing import described
from federating import calibrated, parameters, write_sites

from primia.federation.drafting import draft_plan


@pytest.fixture(scope="session")
def site_folders(tmp_path_factory):
    return write_sites(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="session")
def params_with():
    repository = Path(__file__).resolve().parents[2]
    return lambda **changes: parameters(repository, **changes)


@pytest.fixture
def plan_with(params_with):
    """The plan of three hospitals for changed parameters, and differential privacy as told."""

    def plan(*, privacy=None, **changes):
        params = params_with(**changes)
        return draft_plan(params, described(params), privacy=privacy)

    return plan


@pytest.fixture
def private_plan(plan_with, params_with):
    """A plan with differential privacy."""
    params = params_with(privacy__enabled=True)
    return plan_with(privacy=calibrated(params.privacy, params.federation.rounds), privacy__enabled=True)
