"""The small exported network, for this folder's tests."""

from small_network import export, make_network, small

__all__ = ["export", "make_network", "small"]
