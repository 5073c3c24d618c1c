from pathlib import Path

import pytest
from federating import parameters, write_sites


@pytest.fixture(scope="session")
def site_folders(tmp_path_factory):
    return write_sites(tmp_path_factory.mktemp("hospitals"))


@pytest.fixture(scope="session")
def params_with():
    repository = Path(__file__).resolve().parents[2]
    return lambda **changes: parameters(repository, **changes)
