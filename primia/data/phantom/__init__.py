"""Synthetic chest radiographs of children, with findings, lung masks and a scanner per hospital."""

from primia.consistency import PHANTOM_CLASSES
from primia.data.phantom.patients import PhantomImage, generate_phantoms

__all__ = ["PHANTOM_CLASSES", "PhantomImage", "generate_phantoms"]
