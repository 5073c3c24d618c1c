"""What holds for all tests."""

import os

from hypothesis import settings

# Several tests share the processors: threads that wait for one another would only take them from the other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples everywhere, and a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
