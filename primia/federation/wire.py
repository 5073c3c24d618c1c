"""Frames on a stream socket: a length of four bytes, big-endian, and that many bytes."""

import socket
import time

from primia.errors import ProtocolError
from primia.federation.messages import MAX_MESSAGE_BYTES

_HEADER = 4
_CHUNK = 1 << 20


def send(stream: socket.socket, payload: bytes, *, deadline_s: float | None = None) -> int:
    """Write one frame; returns the bytes written. `TimeoutError` after `deadline_s` seconds."""
    assert len(payload) <= MAX_MESSAGE_BYTES
    stream.settimeout(deadline_s)
    stream.sendall(len(payload).to_bytes(_HEADER))
    stream.sendall(payload)
    return _HEADER + len(payload)


def receive(
    stream: socket.socket, *, deadline_s: float | None = None, limit: int = MAX_MESSAGE_BYTES
) -> bytearray | None:
    """Read one frame, or None when the other end closed the stream between two frames.

    Raises:
        ProtocolError: the frame is longer than `limit`, or the stream ends within it.
        TimeoutError: it did not arrive within `deadline_s` seconds.
    """
    until = None if deadline_s is None else time.monotonic() + deadline_s
    header = _read(stream, _HEADER, until)
    if not header:
        return None
    length = int.from_bytes(header)
    if len(header) < _HEADER or length > limit:
        raise ProtocolError(f"A frame is cut short or longer than {limit} bytes.")
    payload = _read(stream, length, until)
    if len(payload) < length:
        raise ProtocolError(f"A frame of {length} bytes ends after {len(payload)}.")
    return payload


def _read(stream: socket.socket, length: int, until: float | None) -> bytearray:
    # Grows as bytes arrive: a header alone cannot make the reader reserve memory.
    content = bytearray()
    while len(content) < length:
        if until is not None:
            remaining = until - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            stream.settimeout(remaining)
        else:
            stream.settimeout(None)
        chunk = stream.recv(min(_CHUNK, length - len(content)))
        if not chunk:
            break
        content += chunk
    return content
