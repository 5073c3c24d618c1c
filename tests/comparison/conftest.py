from pathlib import Path

import pytest
from federating import image_set, parameters, write_sites

from primia.data.image_set import save_image_set

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """The folder of three tiny hospitals, and the file of the test patients."""
    folder = tmp_path_factory.mktemp("places")
    test = folder / "test.safetensors"
    save_image_set(test, image_set(patients=24, seed=500))
    return write_sites(folder / "sites"), test


@pytest.fixture(scope="session")
def params_with():
    return lambda **changes: parameters(ROOT, **{"evaluation__bootstrap": 100, **changes})
