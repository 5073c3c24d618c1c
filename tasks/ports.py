"""Ports: told in one sentence when one is taken."""

import contextlib
import socket

from primia.errors import ConfigError


def require_free(port: int, *, host: str = "127.0.0.1", way_out: str) -> None:
    """Check that a server could listen on `port`.

    Raises:
        ConfigError: another program does, or the address is not this machine's.
    """
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} on {host} cannot be had ({error.strerror}); stop the program that uses it, or {way_out}."
            ) from error
