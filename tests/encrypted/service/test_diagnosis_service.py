"""Client and server over real HTTP, on a loopback port of their own."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image

from primia.data.preprocess import load_image
from primia.encrypted.client.client import SECRET_FILE, Client
from primia.encrypted.inputs import image_slots
from primia.encrypted.service.app import MOST_UPLOADS, create_app
from primia.errors import EncryptionError

pytestmark = pytest.mark.system  # a real server, and clients at once


@pytest.fixture(scope="module")
def url(small) -> Iterator[str]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(small.bundle, max_clients=2), log_level="warning", ws="none", lifespan="on")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(url, tmp_path_factory) -> Client:
    return Client.keygen(tmp_path_factory.mktemp("client") / "keys", url)


@pytest.fixture(scope="module")
def http(url) -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60.0) as session:
        yield session


def refusal(answer: httpx.Response) -> str:
    detail = answer.json()["detail"]
    assert detail.endswith(".")
    assert "\n" not in detail
    return detail


def test_a_diagnosis_is_that_of_the_network_in_the_clear(small, url, client) -> None:
    diagnosis = client.diagnose(small.image, url)  # enrols by itself
    expected = torch.softmax(small.network(small.network.inputs(small.image[None]))[0], dim=0).tolist()
    assert list(diagnosis.probabilities) == ["normal", "bacterial", "viral"]
    assert list(diagnosis.probabilities.values()) == pytest.approx(expected, abs=5e-3)
    assert sum(diagnosis.probabilities.values()) == pytest.approx(1.0)
    assert diagnosis.bytes["reply"] < diagnosis.bytes["upload"]
    assert all(seconds > 0 for seconds in diagnosis.seconds.values())


def test_an_image_file_goes_through_the_pipelines_own_preprocessing(small, tmp_path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, size=(40, 40), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "image.png")
    said = small.bundle.specification
    tensor = load_image(tmp_path / "image.png", pixels=said.pipeline_pixels)
    assert np.array_equal(image_slots(tmp_path / "image.png", said), image_slots(tensor, said))
    expected = small.network.inputs(tensor[None])[0].numpy()
    np.testing.assert_allclose(image_slots(tensor, said)[0, :64], expected, atol=1e-6)


def test_the_secret_key_stays_in_a_private_file(small, url, client) -> None:
    path = client.folder / SECRET_FILE
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_bytes() not in (client.folder / "evaluation.keys").read_bytes()
    with pytest.raises(EncryptionError, match="already holds a secret key"):
        Client.keygen(client.folder, url)
    path.chmod(0o644)
    with pytest.raises(EncryptionError, match="can be read by other users"):
        Client(client.folder)
    path.chmod(0o600)
    assert Client(client.folder).diagnose(small.image, url).probabilities


def test_the_public_specification_tells_nothing_of_the_weights(small, url, http) -> None:
    said = http.get(f"{url}/model").json()
    assert said == small.bundle.specification.model_dump(mode="json")
    assert set(said) == {
        "parameters",
        "classes",
        "pipeline_pixels",
        "front",
        "mean",
        "std",
        "packing",
        "model_digest",
        "teacher_digest",
    }


def test_bytes_that_are_no_ciphertext_end_in_422_with_one_sentence(small, url, http, client) -> None:
    client.enrol(url)
    upload = client.encrypt_image(small.image, small.bundle.specification)
    corrupted = upload[:1000] + bytes(256) + upload[1256:]
    for content in (b"", upload[:-1], corrupted, client.folder.joinpath(SECRET_FILE).read_bytes()):
        answer = http.post(f"{url}/predict", params={"keys": client.key_digest}, content=content)
        assert answer.status_code == 422
        assert "encrypted image" in refusal(answer)


def test_bytes_that_are_no_keys_end_in_422_and_are_not_kept(url, http, client) -> None:
    before = http.get(f"{url}/healthz").json()["clients"]
    answer = http.post(f"{url}/keys", content=b"no keys")
    assert answer.status_code == 422
    assert "keygen" in refusal(answer)
    assert http.get(f"{url}/healthz").json()["clients"] == before


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_long_is_refused_while_it_arrives(small, url, http, client, announced) -> None:
    client.enrol(url)
    most = small.bundle.specification.parameters.most_ciphertext_bytes

    def chunks() -> Iterator[bytes]:
        for _ in range(most // 65536 + 2):
            yield bytes(65536)

    content = bytes(most + 1) if announced else chunks()
    answer = http.post(f"{url}/predict", params={"keys": client.key_digest}, content=content)
    assert answer.status_code == 413
    assert str(most) in refusal(answer)


def test_unknown_keys_are_asked_to_enrol(small, url, http, client) -> None:
    answer = http.post(f"{url}/predict", params={"keys": "0" * 64}, content=b"x")
    assert answer.status_code == 404
    assert "enrol" in refusal(answer)


def test_a_full_server_says_so(url, http, client, tmp_path) -> None:
    client.enrol(url)
    Client.keygen(tmp_path / "second", url).enrol(url)
    answer = http.post(f"{url}/keys", content=b"a third client's keys")
    assert answer.status_code == 503
    assert "already keeps the keys of 2 clients" in refusal(answer)


def test_uploads_that_never_end_do_not_pile_up_in_memory(url, http, client) -> None:
    host, port = url.removeprefix("http://").split(":")
    half = f"POST /keys HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 1000
    waiting = [socket.create_connection((host, int(port))) for _ in range(MOST_UPLOADS)]
    try:
        for connection in waiting:
            connection.sendall(half)
        deadline = time.monotonic() + 20
        while "as many requests as it can hold" not in refusal(http.post(f"{url}/keys", content=b"one more")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        for connection in waiting:
            connection.close()


def test_the_server_stays_responsive_while_it_evaluates(small, url, http, client) -> None:
    client.enrol(url)
    upload = client.encrypt_image(small.image, small.bundle.specification)
    path = f"{url}/predict?keys={client.key_digest}"
    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(http.post, path, content=upload) for _ in range(4)]
        answered = 0
        while not all(request.done() for request in running):
            assert http.get(f"{url}/healthz").json()["status"] == "ok"
            answered += 1
    assert all(request.result().status_code == 200 for request in running)
    assert answered >= 3


def test_an_image_of_another_size_is_refused_before_it_is_encrypted(url, client) -> None:
    with pytest.raises(EncryptionError, match=r"shape \(1, 8, 8\), but the model takes \(1, 16, 16\)"):
        client.diagnose(torch.rand(1, 8, 8), url)


def test_keys_for_other_parameters_are_refused_by_the_client(small, client) -> None:
    parameters = small.bundle.specification.parameters.model_copy(update={"galois_elements": (3,)})
    specification = small.bundle.specification.model_copy(update={"parameters": parameters})
    with pytest.raises(EncryptionError, match="other encryption parameters than the keys"):
        client.encrypt_image(small.image, specification)


def test_a_server_that_is_not_there_is_said_in_one_sentence(small, client) -> None:
    with pytest.raises(EncryptionError, match=r"cannot be reached \(ConnectError\)"):
        client.diagnose(small.image, "http://127.0.0.1:9")


def test_a_folder_without_keys_is_said(tmp_path) -> None:
    with pytest.raises(EncryptionError, match="make one with keygen"):
        Client(tmp_path)
