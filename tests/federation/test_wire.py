import socket
import threading

import pytest

from primia.errors import ProtocolError
from primia.federation import wire


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    with one, other:
        yield one, other


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_a_frame_arrives_whole(ends, size):
    payload = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    sender = threading.Thread(target=wire.send, args=[ends[0], payload])
    sender.start()
    assert wire.receive(ends[1], deadline_s=10) == payload
    sender.join()


def test_frames_stay_apart_and_a_closed_stream_is_the_end(ends):
    assert wire.send(ends[0], b"one") == 7
    wire.send(ends[0], b"two")
    ends[0].close()
    assert [wire.receive(ends[1]) for _ in range(3)] == [b"one", b"two", None]


@pytest.mark.parametrize("sent", [b"\x00\x00", b"\x00\x00\x00\x05abc"])
def test_a_stream_that_ends_within_a_frame_is_an_error(ends, sent):
    ends[0].sendall(sent)
    ends[0].close()
    with pytest.raises(ProtocolError):
        wire.receive(ends[1])


def test_a_frame_beyond_the_limit_is_refused_before_it_is_read(ends):
    ends[0].sendall(b"\xff\xff\xff\xff")
    with pytest.raises(ProtocolError, match="longer than"):
        wire.receive(ends[1])


def test_a_slow_sender_meets_the_deadline_even_if_it_trickles(ends):
    ends[0].sendall(b"\x00\x00\x00\x05a")
    with pytest.raises(TimeoutError):
        wire.receive(ends[1], deadline_s=0.1)


def test_a_reader_that_does_not_read_meets_the_deadline(ends):
    with pytest.raises(TimeoutError):
        wire.send(ends[0], bytes(10_000_000), deadline_s=0.1)
