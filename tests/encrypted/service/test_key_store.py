import hashlib

import pytest

from primia.encrypted.service.key_store import KeyStore


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock):
    store = KeyStore(most=2, expire_s=10.0, clock=clock)
    yield store
    store.close()


def test_keys_are_named_by_their_sha256_and_private(store) -> None:
    name = store.add(b"keys")
    assert name == hashlib.sha256(b"keys").hexdigest()
    path = store.path(name)
    assert path.read_bytes() == b"keys"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_keys_are_forgotten_after_their_last_use(store, clock) -> None:
    name = store.add(b"keys")
    clock.now = 9.0
    path = store.path(name)
    clock.now = 18.0
    assert store.path(name) == path
    clock.now = 28.5
    assert store.path(name) is None
    assert not path.exists()


def test_a_full_store_takes_no_more_until_one_expires(store, clock) -> None:
    assert store.add(b"a") and store.add(b"b")
    assert store.add(b"c") is None
    assert store.add(b"a") is not None
    clock.now = 11.0
    assert store.add(b"c") is not None
    assert len(store) == 1


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "0" * 64])
def test_unknown_names_lead_nowhere(store, name) -> None:
    assert store.path(name) is None


def test_closing_leaves_nothing(clock) -> None:
    store = KeyStore(most=2, expire_s=10.0, clock=clock)
    path = store.path(store.add(b"keys"))
    store.close()
    assert not path.parent.exists()
