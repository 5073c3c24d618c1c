"""One small checkout for all tests of flows, with a real Prefect server, worker and MLflow store."""

from collections.abc import Iterator

import pytest
from tiny_checkout import Checkout, make_checkout


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return make_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="session")
def served(checkout: Checkout) -> Iterator[Checkout]:
    """The checkout after `make up`."""
    started = checkout.run("tasks.services", "up")
    assert started.returncode == 0, started.stderr + started.stdout
    yield checkout
    stopped = checkout.run("tasks.services", "down")
    assert stopped.returncode == 0, stopped.stderr


@pytest.fixture(scope="session")
def reproduced(served: Checkout) -> Checkout:
    """The checkout after one `dvc repro`."""
    answer = served.run("dvc", "repro", timeout=600)
    assert answer.returncode == 0, answer.stderr + answer.stdout
    return served
