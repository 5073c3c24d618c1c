"""The small exported network, for this folder's tests."""

from small_network import build, export, make_network, small

__all__ = ["build", "export", "make_network", "small"]
