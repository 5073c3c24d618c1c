"""Utility of a released model on the test patients."""
