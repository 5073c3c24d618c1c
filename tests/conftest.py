"""What holds for all tests."""

from hypothesis import settings

# The same examples everywhere, and a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
