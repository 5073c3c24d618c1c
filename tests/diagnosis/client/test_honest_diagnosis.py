"""A client against an honest service, over real HTTP."""

import time

import msgpack
import numpy as np
import pytest
import torch
from PIL import Image
from wire_service import TOKEN, refusal

from primia.diagnosis.client.client import Client
from primia.diagnosis.client.diagnosis import server_seconds
from primia.encrypted.bundle import Bundle
from primia.encrypted.inputs import image_slots
from primia.errors import DataError, EncryptionError

pytestmark = pytest.mark.system

STEPS = ["preprocess", "encrypt", "send", "compute", "decrypt"]


def expected(small, image: torch.Tensor) -> list[float]:
    return torch.softmax(small.network(small.network.inputs(image[None]))[0], dim=0).tolist()


def test_a_diagnosis_is_that_of_the_network_in_the_clear(small, service, client) -> None:
    diagnosis = client.diagnose(small.image)
    assert list(diagnosis.probabilities) == ["normal", "bacterial", "viral"]
    assert list(diagnosis.probabilities.values()) == pytest.approx(expected(small, small.image), abs=5e-3)
    assert sum(diagnosis.probabilities.values()) == pytest.approx(1.0)
    assert (diagnosis.model, diagnosis.version, diagnosis.marks) == ("primia-chest", "7", "unfit for patients")
    assert diagnosis.model_digest == small.bundle.specification.model_digest


def test_an_unknown_client_enrols_by_itself_once(small, service, client) -> None:
    first, second = client.diagnose(small.image), client.diagnose(small.image)
    assert list(first.seconds) == list(first.bytes) == ["preprocess", "encrypt", "enrol", "send", "compute", "decrypt"]
    assert list(second.seconds) == list(second.bytes) == STEPS
    assert [seen.path for seen in service.seen].count("/keys") == 1
    assert client.enrol() == client.key_digest


def test_the_steps_are_told_as_they_begin_and_end_and_add_up_to_what_was_sent(small, service, client) -> None:
    client.enrol()
    told: list[tuple[str, dict]] = []
    diagnosis = client.diagnose(small.image, on_step=lambda step, details: told.append((step, details)))
    assert [step for step, details in told if not details] == STEPS
    assert {step: details["bytes"] for step, details in told if details} == diagnosis.bytes
    assert diagnosis.seconds["compute"] == pytest.approx(0.0425)  # as the service said
    assert diagnosis.bytes["send"] == len(service.seen[-1].body)
    assert diagnosis.bytes["encrypt"] < diagnosis.bytes["send"] < diagnosis.bytes["encrypt"] + 1024
    assert diagnosis.bytes["preprocess"] == 8 * 4096


@pytest.mark.parametrize("timing", ["", "total;dur=3", "queue;dur=nan, evaluate;dur=-1", "evaluate;dur=1e999"])
def test_a_timing_that_cannot_be_read_counts_as_none(timing) -> None:
    assert server_seconds(timing) in (0.0, 0.001)


def test_an_image_file_is_diagnosed_like_the_tensor_of_the_pipeline(small, service, client, tmp_path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, size=(40, 40), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "image.png")
    from primia.data.preprocess import load_image

    diagnosis = client.diagnose(tmp_path / "image.png")
    in_clear = expected(small, load_image(tmp_path / "image.png", pixels=16))
    assert list(diagnosis.probabilities.values()) == pytest.approx(in_clear, abs=5e-3)


def test_what_is_sent_holds_no_secret_and_a_nonce_is_never_used_twice(small, service, client) -> None:
    client.diagnose(small.image)
    client.diagnose(small.image)
    questions = [msgpack.unpackb(seen.body) for seen in service.seen if seen.path.endswith("/predict")]
    assert len({question["nonce"] for question in questions}) == len(questions) == 3
    assert all(abs(question["time"] - time.time()) < 60 for question in questions)
    secret = (client.folder / "secret.key").read_bytes()
    for seen in service.seen:
        assert all(secret[start : start + 32] not in seen.body for start in range(64, len(secret) - 32, 4096))
        assert seen.headers["authorization"] == f"Bearer {TOKEN}"
        assert seen.headers["accept-encoding"] == "identity"


def test_an_image_of_another_size_is_refused_before_anything_of_it_is_sent(service, client) -> None:
    with pytest.raises(EncryptionError, match=r"shape \(1, 8, 8\), but the model takes \(1, 16, 16\)"):
        client.diagnose(torch.rand(1, 8, 8))
    assert [seen.method for seen in service.seen] == ["GET"]


@pytest.mark.parametrize("size", [(31, 40), (40, 31), (40, 121), (400, 133)])
def test_a_file_of_a_size_no_radiograph_has_is_refused(service, client, tmp_path, size) -> None:
    Image.fromarray(np.zeros(size, np.uint8)).save(tmp_path / "odd.png")
    with pytest.raises(
        DataError, match=rf"odd\.png is of the wrong size \({size[1]} x {size[0]} pixels\); give a whole"
    ):
        client.diagnose(tmp_path / "odd.png")
    assert [seen.method for seen in service.seen] == ["GET"]


def test_a_model_that_changes_between_description_and_question_is_asked_for_anew_once(small, service, client) -> None:
    client.enrol()
    honest = small.bundle
    changed = honest.specification.model_copy(update={"mean": 0.4, "model_digest": "cd" * 32})
    described: list[bool] = []

    def change_after_the_first_description(route, body, response):
        if route == "describe":
            described.append(True)
            service.bundle = Bundle(honest.plan, changed)
        return response

    service.lie = change_after_the_first_description
    try:
        diagnosis = client.diagnose(small.image)
    finally:
        service.bundle = honest
    assert diagnosis.model_digest == "cd" * 32
    assert len(described) == 2
    difference = image_slots(small.image, changed) - image_slots(small.image, honest.specification)
    assert np.abs(difference).max() > 0.1  # it was encrypted anew


def test_a_conflict_that_is_not_about_the_model_is_the_servers_sentence(small, service, client) -> None:
    client.enrol()
    service.lie = lambda route, body, honest: (
        refusal(409, "The clocks differ by 400 s; set this machine's.") if route == "predict" else honest
    )
    with pytest.raises(EncryptionError, match=r"refused \(409\): The clocks differ by 400 s; set this machine's\.$"):
        client.diagnose(small.image)
    assert [seen.path for seen in service.seen].count("/models/primia-chest/predict") == 1


def test_a_model_that_was_withdrawn_does_not_make_the_client_enrol_again(small, service, client) -> None:
    client.enrol()

    def withdraw(route, body, response):
        service.name = "another"
        return response

    service.lie = withdraw
    try:
        with pytest.raises(EncryptionError, match="No approved model has that name"):
            service.enrolled.clear()
            client.diagnose(small.image)
    finally:
        service.name = "primia-chest"
    assert [seen.path for seen in service.seen].count("/keys") == 1


def test_a_busy_server_is_asked_once_more_with_a_new_question(small, service, client) -> None:
    client.enrol()
    left = [refusal(503, "All places are taken; ask again in a moment.", retry_after="0")]
    service.lie = lambda route, body, honest: left.pop() if route == "predict" and left else honest
    assert client.diagnose(small.image).probabilities
    questions = [msgpack.unpackb(seen.body) for seen in service.seen if seen.path.endswith("/predict")]
    assert len({question["nonce"] for question in questions}) == 2
    service.lie = lambda route, body, honest: refusal(503, "All places are taken.", retry_after="0")
    with pytest.raises(EncryptionError, match=r"refused \(503\): All places are taken\.$"):
        client.diagnose(small.image)


def test_a_quota_is_said_with_the_time_to_wait_and_not_tried_again(small, service, client) -> None:
    service.lie = lambda route, body, honest: refusal(429, "Your 20 questions a day are used up.", retry_after="3600")
    with pytest.raises(EncryptionError, match=r"questions a day are used up; it may be asked again in 3600 s\.$"):
        client.diagnose(small.image)
    assert len(service.seen) == 1


def test_another_token_is_the_servers_to_refuse(small, service, key_folder) -> None:
    stranger = Client(key_folder, token="primia_00000000_" + "00" * 32)
    with pytest.raises(EncryptionError, match=r"refused \(401\): The token is not known here"):
        stranger.diagnose(small.image)


def test_keys_for_other_parameters_are_said_before_anything_is_sent(small, service, client) -> None:
    parameters = small.bundle.specification.parameters.model_copy(update={"galois_elements": (3,)})
    other = small.bundle.specification.model_copy(update={"parameters": parameters})
    service.lie = lambda route, body, honest: service.described(specification=other)
    with pytest.raises(EncryptionError, match="other encryption parameters than the keys"):
        client.diagnose(small.image)


def test_a_server_that_is_not_there_is_said_in_one_sentence(small, service, key_folder) -> None:
    with pytest.raises(EncryptionError, match=r"cannot be reached \(ConnectError\)"):
        Client(key_folder, server="http://127.0.0.1:9").diagnose(small.image)
