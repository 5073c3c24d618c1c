"""What counts as one address, and how long TLS may take to end."""

import asyncio
import contextlib
import ssl

import pytest

from primia.diagnosis.service.protocol import GOODBYE_S, Loop, network_of


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_addresses_of_one_network_count_together(address, counted) -> None:
    assert network_of(address) == counted


def test_a_connection_without_a_goodbye_in_tls_does_not_linger() -> None:
    async def seconds(loop: asyncio.AbstractEventLoop) -> float:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        async with await loop.create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context) as server:
            return server._ssl_shutdown_timeout

    with contextlib.closing(Loop()) as loop:
        assert loop.run_until_complete(seconds(loop)) == GOODBYE_S
