"""What holds for all tests."""

import os

import pytest
from hypothesis import settings

# Several tests share the processors: threads that wait for one another would only take them from the other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples everywhere, and a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines first: they take longest, and the many quick tests fill the gaps that they leave."""
    items.sort(key=lambda item: (item.get_closest_marker("system") is None, "flows" not in item.path.parts))
