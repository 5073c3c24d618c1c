"""SEAL's objects as bytes: it reads and writes files only, and a secret key must not touch a disk."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def memory_file(content: bytes | memoryview = b"") -> Iterator[str]:
    """The path of a file that lives in memory only and holds `content`."""
    descriptor = os.memfd_create("seal", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as stream:
            stream.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def saved(thing: Any) -> bytes:
    """What SEAL writes for a key or a ciphertext."""
    with memory_file() as path:
        thing.save(path)
        with open(path, "rb") as stream:  # noqa: PTH123 - a descriptor's path
            return stream.read()
