"""The key folder: complete or absent, closed to others, and public where it says so."""

import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
import tenseal.sealapi as seal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from primia.diagnosis.client import keyring
from primia.diagnosis.client.keyring import Keyring, Server, checked_token, needs_passphrase
from primia.diagnosis.client.passphrase import Lock
from primia.errors import EncryptionError
from primia.seal import memory_file

TOKEN = "primia_0123abcd_" + "5e" * 32
SERVER = Server(url="http://127.0.0.1:9", identity="ab" * 32, model="primia-chest")
NAMES = {"secret.key", "evaluation.keys", "parameters.json", "identity.pem", "server.json", "token"}


def create(small, folder: Path, **more) -> Path:
    Keyring.create(folder, parameters=small.bundle.specification.parameters, server=SERVER, token=TOKEN, **more)
    return folder


@pytest.fixture(scope="module")
def plain(small, tmp_path_factory) -> Path:
    return create(small, tmp_path_factory.mktemp("plain") / "keys")


@pytest.fixture(scope="module")
def locked(small, tmp_path_factory) -> Path:
    return create(small, tmp_path_factory.mktemp("locked") / "keys", passphrase="correct horse")


@pytest.fixture
def folder(plain, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return copy(plain, tmp_path / "copy")


def copy(source: Path, target: Path) -> Path:
    target.mkdir(mode=0o700)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
        (target / path.name).chmod(0o600)
    return target


def test_a_new_folder_and_its_files_are_closed_to_others_whatever_the_umask(small, tmp_path) -> None:
    before = os.umask(0)
    try:
        folder = create(small, tmp_path / "deeper" / "keys", authority=b"certificates")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == NAMES | {"ca.pem"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    ring = Keyring.open(folder)
    assert (ring.server, ring.token, ring.authority) == (SERVER, TOKEN, folder / "ca.pem")


@pytest.mark.parametrize("name", ["", *sorted(NAMES)])
@pytest.mark.parametrize("mode", [0o640, 0o602])
def test_a_file_or_folder_open_to_others_is_refused(folder, name, mode) -> None:
    (folder / name).chmod(mode | (0o100 if not name else 0))
    with pytest.raises(EncryptionError, match=f"other users of this machine; run chmod {'600' if name else '700'} on"):
        Keyring.open(folder)


@pytest.mark.parametrize("name", sorted(NAMES - {"token"}))
def test_a_missing_file_is_no_complete_set_of_keys(folder, name) -> None:
    (folder / name).unlink()
    with pytest.raises(EncryptionError, match="holds no complete set of keys; make one with keygen"):
        Keyring.open(folder, token=TOKEN)


def test_a_missing_or_damaged_token_is_said_unless_another_one_is_given(folder) -> None:
    other = "primia_00000000_" + "0f" * 32
    (folder / "token").write_text("no token")
    with pytest.raises(EncryptionError, match="token is missing or damaged; give the token again with primia enrol"):
        Keyring.open(folder)
    assert Keyring.open(folder, token=f" {other}\n").token == other
    (folder / "token").unlink()
    with pytest.raises(EncryptionError, match="token is missing or damaged"):
        Keyring.open(folder)
    ring = Keyring.open(folder, token=other)
    ring.keep_token(ring.token)
    assert Keyring.open(folder).token == other


@pytest.mark.parametrize("name", sorted(NAMES))
@pytest.mark.parametrize("content", [b"", b"\xff\xfe nonsense", b"{}"])
def test_a_damaged_file_is_one_sentence_that_repeats_nothing_of_it(folder, name, content) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(EncryptionError) as caught:
        Keyring.open(folder)
    assert str(caught.value).endswith(".") and "nonsense" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(NAMES - {"token"}))
def test_a_file_that_was_cut_off_can_be_restored_or_made_anew(folder, name) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    way_out = f"{name} is damaged; restore it from a backup, or make new keys with keygen in another folder"
    with pytest.raises(EncryptionError, match=way_out):
        Keyring.open(folder)


def test_existing_keys_are_never_overwritten(small, folder) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(EncryptionError, match="already holds keys or other files; choose another folder"):
        create(small, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_folder_that_fills_up_meanwhile_is_not_overwritten_either(small, tmp_path, monkeypatch) -> None:
    folder = tmp_path / "keys"

    def race(temporary: Path, target: Path) -> Path:
        folder.mkdir(exist_ok=True)
        (folder / "secret.key").write_bytes(b"made by another keygen")
        os.rename(temporary, target)
        return Path(target)

    monkeypatch.setattr(Path, "rename", race)
    with pytest.raises(EncryptionError, match="already holds keys or other files"):
        create(small, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
    assert (folder / "secret.key").read_bytes() == b"made by another keygen"


def test_a_file_or_a_link_in_the_folders_place_is_left_alone(small, tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    for name in ("file", "link"):
        with pytest.raises(EncryptionError, match="already holds keys or other files"):
            create(small, tmp_path / name)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert create(small, tmp_path / "empty").stat().st_mode & 0o777 == 0o700


def test_an_interrupted_keygen_leaves_nothing(small, tmp_path, monkeypatch) -> None:
    written = []

    def interrupted(path: Path, content: bytes, **more) -> None:
        written.append(path.name)
        if len(written) == 4:
            raise KeyboardInterrupt
        path.write_bytes(content)

    monkeypatch.setattr(keyring, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create(small, tmp_path / "keys")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.system
@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.02])
def test_a_killed_keygen_leaves_nothing_that_looks_complete(small, tmp_path, after_s) -> None:
    parameters = small.bundle.specification.parameters.model_dump_json()
    code = (
        "import sys; from pathlib import Path; from primia.diagnosis.client.keyring import *; print('go', flush=True); "
        f"Keyring.create(Path(sys.argv[1]), parameters=Parameters.model_validate_json({parameters!r}), "
        f"server=Server.model_validate_json({SERVER.model_dump_json()!r}), token={TOKEN!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "keys")], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(after_s)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if (tmp_path / "keys").exists():  # the kill came too late: then all of it is there
        assert Keyring.open(tmp_path / "keys").token == TOKEN
    else:
        create(small, tmp_path / "keys")


def test_evaluation_keys_of_another_secret_key_are_noticed(small, folder) -> None:
    (folder / "evaluation.keys").write_bytes(small.key_bytes)
    with pytest.raises(EncryptionError, match="does not belong to the secret key beside it"):
        Keyring.open(folder)


def test_a_secret_key_of_another_client_is_noticed(small, folder) -> None:
    (folder / "secret.key").write_bytes(small.secret_bytes)
    with pytest.raises(EncryptionError, match="does not belong to the secret key beside it"):
        Keyring.open(folder)


def test_nothing_secret_shows_when_a_keyring_is_printed(plain) -> None:
    ring = Keyring.open(plain)
    assert TOKEN not in repr(ring) and "token" not in repr(ring) and "secret" not in repr(ring)


def test_a_passphrase_is_needed_and_nothing_secret_lies_open_under_it(plain, locked) -> None:
    assert needs_passphrase(locked) and not needs_passphrase(plain)
    with pytest.raises(EncryptionError, match="under a passphrase; give it"):
        Keyring.open(locked)
    ring = Keyring.open(locked, "correct horse")
    assert seal.is_valid_for(ring.secret, ring.scheme.context)
    sealed = (locked / "secret.key").read_bytes()
    magic = (plain / "secret.key").read_bytes()[:4]  # of every SEAL object
    assert magic not in sealed
    with pytest.raises(EncryptionError):
        ring.scheme.load_secret(sealed)
    pem = (locked / "identity.pem").read_bytes()
    assert pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(ValueError):  # the passphrase itself opens no weaker lock
        load_pem_private_key(pem, b"correct horse")
    with pytest.raises(TypeError):
        load_pem_private_key(pem, None)


def test_a_wrong_passphrase_opens_nothing(locked) -> None:
    with pytest.raises(EncryptionError, match="does not open the secret key, or its file was changed"):
        Keyring.open(locked, "correct horsf")


def test_a_changed_sealed_file_is_refused_wherever_it_was_changed() -> None:
    lock = Lock.new("correct horse")
    sealed = lock.seal(b"the content of a key file")
    for position in range(len(sealed)):  # magic, cost, salt, nonce, ciphertext, tag
        spoilt = bytearray(sealed)
        spoilt[position] ^= 1
        with pytest.raises(EncryptionError, match="does not open the secret key, or its file was changed"):
            lock.open(bytes(spoilt))
    assert lock.open(sealed) == b"the content of a key file"


@pytest.mark.parametrize(("position", "value"), [(16, 21), (16, 0), (16, 255), (17, 9), (18, 2)])
def test_a_sealed_file_cannot_ask_for_unbounded_memory(position, value) -> None:
    sealed = bytearray(b"primia-sealed-1\n" + bytes([17, 8, 1]) + bytes(28) + b"content")
    sealed[position] = value
    with pytest.raises(EncryptionError, match="file is damaged"):
        Lock.of(bytes(sealed), "correct horse")


def test_the_same_letters_typed_on_another_keyboard_are_the_same_passphrase() -> None:
    lock = Lock.new("Schlüsselbund")
    sealed = lock.seal(b"content")
    assert Lock.of(sealed, "Schlu\u0308sselbund").open(sealed) == b"content"
    assert lock.seal(b"content") != sealed  # a nonce of its own


def test_a_short_passphrase_is_refused_before_keys_are_made(small, tmp_path) -> None:
    with pytest.raises(EncryptionError, match="at least 8 characters"):
        create(small, tmp_path / "keys", passphrase="short")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "token", ["", "primia_", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), TOKEN[:30] + "\r\nx: y" + TOKEN[35:]]
)
def test_what_is_no_token_is_refused_without_repeating_it(token) -> None:
    with pytest.raises(EncryptionError) as caught:
        checked_token(token)
    assert len(token) < 20 or token not in str(caught.value)
    assert "primia_<8 hexadecimal digits>_<64 hexadecimal digits>" in str(caught.value)
    assert checked_token(f" {TOKEN}\n") == TOKEN


def test_another_token_takes_the_place_of_the_first(folder) -> None:
    other = "primia_00000000_" + "0f" * 32
    Keyring.open(folder).keep_token(other)
    assert Keyring.open(folder).token == other
    assert (folder / "token").stat().st_mode & 0o777 == 0o600


def test_two_clients_never_share_a_key(small, plain, tmp_path) -> None:
    other = create(small, tmp_path / "other")
    for name in ("secret.key", "evaluation.keys", "identity.pem"):
        assert (plain / name).read_bytes() != (other / name).read_bytes()
    assert isinstance(Keyring.open(other).identity, Ed25519PrivateKey)


# The public bundle. SEAL keeps a key as polynomials modulo each prime, in NTT form, so that equal polynomials are
# equal numbers; a byte search would miss what is compressed or encoded anew.


def words(array, start: int, count: int) -> np.ndarray:
    return np.array([array.at(index) for index in range(start, start + count)], dtype=np.uint64)


def test_the_public_bundle_is_three_public_objects_to_the_last_byte(plain) -> None:
    ring = Keyring.open(plain)
    parts = msgpack.unpackb(ring.evaluation_keys)
    assert set(parts) == {"public", "relinearisation", "galois"}
    assert msgpack.packb(parts) == ring.evaluation_keys  # no byte beside them
    kinds = {"public": seal.PublicKey, "relinearisation": seal.RelinKeys, "galois": seal.GaloisKeys}
    for name, content in parts.items():
        # SEAL's header says where its object ends: there is no byte behind it
        assert int.from_bytes(content[8:16], "little") == len(content)
        with memory_file(content) as path:
            loaded = kinds[name]()
            loaded.load(ring.scheme.context, path)
        assert seal.is_valid_for(loaded, ring.scheme.context)
        with pytest.raises(EncryptionError):
            ring.scheme.load_secret(content)


def test_no_polynomial_of_the_secret_key_occurs_in_the_public_bundle(plain) -> None:
    ring = Keyring.open(plain)
    keys, scheme = ring.scheme.load_keys(ring.evaluation_keys), ring.scheme
    primes = [modulus.value() for modulus in scheme.context.key_context_data().parms().coeff_modulus()]
    degree = scheme.context.key_context_data().parms().poly_modulus_degree()
    secret_polynomial = ring.secret.data().dyn_array()
    secret = [words(secret_polynomial, i * degree, 64) for i in range(len(primes))]
    own = [
        {bytes(block)} | {bytes((np.uint64(p) - block) % np.uint64(p))} for block, p in zip(secret, primes, strict=True)
    ]

    public: list = [keys.public]
    public += [part for row in keys.relinearisation.data() for part in row]
    public += [part for row in keys.galois.data() for part in row]
    looked_at = 0
    for key in public:
        ciphertext = key.data()
        assert ciphertext.size() == 2 and ciphertext.coeff_modulus_size() == len(primes)
        for polynomial in range(2):
            for index in range(len(primes)):
                start = (polynomial * len(primes) + index) * degree
                assert bytes(words(ciphertext.dyn_array(), start, 64)) not in own[index]
                looked_at += 1
    digits = len(primes) - 1
    assert looked_at == 2 * len(primes) * (1 + digits * (1 + len(scheme.parameters.galois_elements)))
    # the comparison finds the secret key where it does lie open
    assert bytes(words(secret_polynomial, 0, 64)) in own[0]


def test_what_the_bundle_holds_does_not_decrypt(plain) -> None:
    ring = Keyring.open(plain)
    keys, scheme = ring.scheme.load_keys(ring.evaluation_keys), ring.scheme
    image = np.full(scheme.parameters.slots, 0.5)
    ciphertext = scheme.load_fresh(scheme.encrypt(image, ring.secret))

    def error_with(secret) -> float:
        decrypted = seal.Plaintext()
        seal.Decryptor(scheme.context, secret).decrypt(ciphertext, decrypted)
        return float(np.abs(np.asarray(scheme.encoder.decode_double(decrypted)) - image).mean())

    length = ring.secret.data().dyn_array().size()

    def taken_for_a_secret(numbers: np.ndarray):
        """SEAL's own format of a secret key, uncompressed, around other numbers."""
        version = (plain / "secret.key").read_bytes()[:5]
        array = _framed(version, struct.pack("<Q", length) + numbers.tobytes())
        begin = struct.pack("<4QQd", *ring.secret.parms_id(), length, 1.0)
        return scheme.load_secret(_framed(version, begin + array))

    own = words(ring.secret.data().dyn_array(), 0, length)
    assert error_with(taken_for_a_secret(own)) < 1e-2  # the secret key itself decrypts that way
    galois = next(row[0] for row in keys.galois.data() if row)
    for key in (keys.public, keys.relinearisation.data()[0][0], galois):
        for polynomial in range(2):
            taken = words(key.data().dyn_array(), polynomial * length, length)
            assert error_with(taken_for_a_secret(taken)) > 1.0


def _framed(version: bytes, content: bytes) -> bytes:
    return version + bytes(3) + struct.pack("<Q", 16 + len(content)) + content
