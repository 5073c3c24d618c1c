import socket

import pytest

from primia.errors import ConfigError
from tasks.ports import require_free


def test_a_port_somebody_listens_on_is_refused_with_the_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"Port {port} .* or take another\."):
            require_free(port, way_out="take another")
    require_free(port, way_out="take another")
