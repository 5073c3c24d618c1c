import hashlib

import pytest

from primia.diagnosis.service.key_store import KeyStore
from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.settings import ServiceSettings

LABEL = {"identity": "1" * 64, "parameters": "2" * 64}


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def settings(**changes) -> ServiceSettings:
    return ServiceSettings(**{"most_keys": 3, "keys_per_client": 2, "keys_expire_s": 1000.0} | changes)


@pytest.fixture
def store(tmp_path, clock) -> KeyStore:
    return KeyStore(tmp_path / "keys", settings(), clock=clock)


def add(store: KeyStore, client: str, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    path = store.reserve(client, digest, len(content))
    store.write(path, content)
    store.label(path, **LABEL)
    store.keep(client, digest, **LABEL)
    return digest


def test_keys_are_private_files_named_by_their_digest(store, tmp_path) -> None:
    keys = store.find("a", add(store, "a", b"keys"))
    assert keys.path.read_bytes() == b"keys"
    assert keys.path.name == hashlib.sha256(b"keys").hexdigest()
    for path in (keys.path, keys.path.with_name(keys.path.name + ".json")):
        assert path.stat().st_mode & 0o777 == 0o600
    for folder in (tmp_path / "keys", tmp_path / "keys" / "a"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_keys_belong_to_their_client(store) -> None:
    digest = add(store, "a", b"keys")
    assert store.find("b", digest) is None
    assert store.find("a", "../../etc/passwd") is None


def test_a_client_pushes_out_its_own_oldest_keys_only(store) -> None:
    other = add(store, "b", b"0")
    first, second = add(store, "a", b"1"), add(store, "a", b"2")
    third = add(store, "a", b"3")  # the store is full, but these take the place of the client's own
    assert store.find("a", first) is None
    assert store.find("a", second) and store.find("a", third) and store.find("b", other)
    with pytest.raises(Refusal, match="as many keys as it can") as caught:
        add(store, "c", b"4")
    assert caught.value.status == 503
    assert len(store) == 3


def test_bytes_are_bounded_too(tmp_path, clock) -> None:
    store = KeyStore(tmp_path / "keys", settings(most_key_store_bytes=100), clock=clock)
    add(store, "a", bytes(60))
    with pytest.raises(Refusal, match="as many keys"):
        store.reserve("b", "0" * 64, 41)
    store.reserve("b", "0" * 64, 40)
    with pytest.raises(Refusal, match="as many keys"):
        store.reserve("c", "1" * 64, 1)  # what is only being checked counts


def test_expired_keys_make_room(store, clock) -> None:
    digests = [add(store, client, b"1") for client in "abc"]
    clock.now += 600
    assert store.find("a", digests[0])
    clock.now += 600
    add(store, "d", b"2")
    assert store.find("a", digests[0])  # was used in between
    assert store.find("b", digests[1]) is None
    assert len(store) == 2


def test_keys_outlive_a_restart_with_the_time_of_their_last_use(store, tmp_path, clock) -> None:
    digest, stale = add(store, "a", b"1"), add(store, "b", b"2")
    clock.now += 600
    store.find("a", digest)
    clock.now += 600
    again = KeyStore(tmp_path / "keys", settings(), clock=clock)
    assert again.find("a", digest).identity == LABEL["identity"]
    assert again.find("b", stale) is None
    assert not (tmp_path / "keys" / "b" / stale).exists()


def test_what_was_never_checked_does_not_outlive_a_restart(store, tmp_path, clock) -> None:
    path = store.reserve("a", "0" * 64, 4)
    store.write(path, b"half")
    again = KeyStore(tmp_path / "keys", settings(), clock=clock)
    assert len(again) == 0
    assert not path.exists()


def test_refused_keys_leave_nothing(store) -> None:
    path = store.reserve("a", "0" * 64, 4)
    store.write(path, b"keys")
    with pytest.raises(Refusal, match="being checked already"):
        store.reserve("a", "0" * 64, 4)
    store.release("a", "0" * 64)
    assert not path.exists()
    assert store.find("a", "0" * 64) is None
    store.reserve("a", "0" * 64, 4)


def test_keys_of_revoked_clients_go(store) -> None:
    gone, stays = add(store, "a", b"1"), add(store, "b", b"2")
    path = store.find("a", gone).path
    store.sweep(frozenset({"b"}))
    assert store.find("a", gone) is None
    assert not path.exists()
    assert store.find("b", stays)


def test_a_disk_that_takes_no_keys_is_said(store) -> None:
    with pytest.raises(Refusal, match="no room on its disk") as caught:
        store.write(store._folder / "missing" / "deeper" / "x", b"keys")
    assert caught.value.status == 503
    assert str(store._folder) not in str(caught.value)


def test_keys_that_went_while_their_label_was_written_do_not_come_back(store, tmp_path, clock) -> None:
    path = store.find("a", digest := add(store, "a", b"keys")).path
    for content in (b"newer", b"newest"):
        clock.now += 1
        add(store, "a", content)
    store.label(path, identity="3" * 64, parameters=LABEL["parameters"])
    assert not store.relabel("a", digest, identity="3" * 64)
    assert store.find("a", digest) is None
    assert not [each for each in (tmp_path / "keys" / "a").iterdir() if each.name.startswith(digest)]
    kept = hashlib.sha256(b"newest").hexdigest()
    assert store.relabel("a", kept, identity="3" * 64)
    assert store.find("a", kept).identity == "3" * 64
