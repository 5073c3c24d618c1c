"""What attackers send: each ends in one sentence, and the next clinic is answered as if nothing had happened."""

import contextlib
import os
import socket
import time

import msgpack
import pytest
import tenseal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from diagnosing import NAME, Clinic, Registry, answer_on, refusal, running, sentence, wait_until
from small_network import seeded

from primia.diagnosis.wire import Enrolment, Question, digest_of, sign
from primia.encrypted.ckks import Scheme
from primia.encrypted.parameters import parameters_for

pytestmark = pytest.mark.system


@pytest.fixture(autouse=True)
def the_service_answers_on(service, clinic):
    pids = set(service.worker_pids())
    yield
    assert clinic.is_answered_rightly()
    assert set(service.worker_pids()) == pids


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


@pytest.mark.parametrize("kind", [Enrolment, Question])
def test_a_body_that_is_empty_or_no_message_is_refused(clinic, kind) -> None:
    assert "empty" in refusal(clinic.send(kind, b""), 422)
    for body in (b"\xc1", b"{}", msgpack.packb([1, 2]), msgpack.packb({"format": 1}), b"\x91" * 2000):
        assert kind.__name__.lower() in refusal(clinic.send(kind, body), 422)


def test_a_truncated_message_is_refused(clinic) -> None:
    body = clinic.question()
    for length in (1, 50, len(body) // 2, len(body) - 1):
        refusal(clinic.send(Question, body[:length]), 422)


def test_a_bit_flipped_on_the_way_is_refused(clinic) -> None:
    body = clinic.question()
    signature = sign(clinic.identity, Question, body)
    place = body.index(b"ciphertexts") + 5000
    assert "signature" in refusal(clinic.send(Question, flipped(body, place), signature=signature), 422)
    enrolment = clinic.enrolment()
    signed = sign(clinic.identity, Enrolment, enrolment)
    assert "signature" in refusal(clinic.send(Enrolment, flipped(enrolment, 100_000), signature=signed), 422)


def test_damaged_ciphertexts_under_a_valid_signature_are_refused(clinic, small) -> None:
    fresh = small.fresh
    for content in (b"", fresh[:-1], fresh + b"\0", flipped(fresh, 3), b"\0" * 4096, small.secret_bytes):
        assert "encrypted image" in refusal(clinic.ask(ciphertexts=[content]), 422)


def test_a_signature_of_another_identity_kind_or_form_is_refused(clinic) -> None:
    body = clinic.question()
    stranger = Ed25519PrivateKey.generate()
    wrong = [sign(stranger, Question, body), sign(clinic.identity, Enrolment, body), "", "zz" * 64, "00" * 64]
    for signature in wrong:
        assert "signature" in refusal(clinic.send(Question, body, signature=signature), 422)


def test_keys_of_another_parameter_set_are_refused(clinic, small) -> None:
    parameters = parameters_for(levels=3, rotations=(1, 2))
    _, foreign = Scheme(parameters).generate_keys()
    said = refusal(clinic.enrol(keys=foreign, parameters=parameters.digest()), 422)
    assert "other encryption parameters" in said
    assert "evaluation keys" in refusal(clinic.enrol(keys=foreign), 422).lower()  # also when they claim to be right


def test_a_context_with_the_secret_key_inside_is_refused(clinic, service) -> None:
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[40, 30, 40])
    context.generate_galois_keys()
    assert context.is_private()
    kept = service.metric("primia_keys_kept")
    said = refusal(clinic.enrol(keys=context.serialize(save_secret_key=True)), 422)
    assert "keys" in said
    assert service.metric("primia_keys_kept") == kept


def test_a_public_key_that_is_half_a_seed_ends_no_worker(clinic, small) -> None:
    parts = msgpack.unpackb(small.key_bytes)
    keys = msgpack.packb(parts | {"public": seeded(parts["public"])})
    assert "a public key that encrypts nothing" in refusal(clinic.enrol(keys=keys), 422)


def test_keys_that_were_refused_leave_no_file(service, clinic) -> None:
    refusal(clinic.enrol(keys=b"no keys at all"), 422)
    names = {path.name for path in (service.state / "keys" / clinic.id).iterdir()}
    assert digest_of(b"no keys at all") not in names


def test_another_clients_keys_do_not_exist_for_this_one(service, clinic, small) -> None:
    thief = Clinic(service, small, service.issue(), identity=clinic.identity)
    assert "not known here" in refusal(thief.ask(), 404)
    assert "not known here" in refusal(clinic.ask(keys="0" * 64), 404)


def test_a_question_is_answered_once(clinic) -> None:
    body = clinic.question()
    assert clinic.send(Question, body).status_code == 200
    assert "asked already" in refusal(clinic.send(Question, body), 409)


@pytest.mark.parametrize("late", [-400, 400])
def test_messages_from_another_time_are_refused(clinic, late) -> None:
    said = int(time.time()) + late
    assert "clock" in refusal(clinic.ask(time=said), 409)
    assert "clock" in refusal(clinic.enrol(time=said), 409)


def test_a_question_for_another_model_or_of_another_shape_is_refused(clinic, small) -> None:
    assert "not the approved one" in refusal(clinic.ask(model="0" * 64), 409)
    assert "names another model" in refusal(clinic.ask(name="other"), 422)
    said = refusal(clinic.ask(ciphertexts=[small.fresh, small.fresh[:100]]), 422)
    assert "2 ciphertexts, but an image takes 1" in said


def test_ten_gigabytes_are_refused_before_they_are_sent(service, clinic) -> None:
    for path in (f"/models/{NAME}/predict", "/keys"):
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {clinic.token}\r\n"
        with socket.create_connection(service.address, timeout=200) as connection:
            connection.sendall(f"{head}content-length: 10737418240\r\n\r\n".encode())
            status, body = answer_on(connection)
        assert status == 413
        assert "longer than the" in sentence(body)


def test_ten_gigabytes_in_chunks_or_compressed_are_refused(service, clinic) -> None:
    def chunks():
        while True:
            yield bytes(65536)

    url = f"{service.url}/models/{NAME}/predict"
    assert "without its length" in refusal(clinic.http.post(url, content=chunks(), headers=clinic.headers()), 411)
    assert "compressed" in refusal(clinic.send(Question, clinic.question(), **{"content-encoding": "gzip"}), 415)


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "99999999999999999999", "１２"])
def test_lengths_that_are_none_are_refused(service, clinic, length) -> None:
    head = f"POST /keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {clinic.token}\r\ncontent-length: {length}\r\n\r\n"
    with socket.create_connection(service.address, timeout=200) as connection:
        connection.sendall(head.encode())
        status, body = answer_on(connection)
    assert status in (400, 413)
    sentence(body)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /keys HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /keys HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 40_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_http_ends_in_one_sentence(service, sent) -> None:
    with socket.create_connection(service.address, timeout=200) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(sent)
        status, body = answer_on(connection)
    assert 400 <= status < 502
    sentence(body)


def test_a_client_that_goes_away_in_the_middle_takes_nothing_along(service, clinic) -> None:
    body = clinic.question()
    head = f"POST /models/{NAME}/predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {clinic.token}\r\n"
    for _ in range(8):  # more than a client may ask at once
        with socket.create_connection(service.address, timeout=200) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:5000])
        wait_until(lambda: clinic.ask(keys="0" * 64).status_code == 404, "a place was not given back")


def test_slow_uploads_end_and_headers_that_never_end_do_too(small, release_of, tmp_path) -> None:
    registry = Registry(release_of(small.bundle))
    with running(tmp_path, registry, header_s=0.5, pace_slack_s=0.5, pace_bytes_per_s=1e6) as service:
        token = service.issue()
        head = f"POST /keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n".encode()
        for sent, said in (
            (head + b"content-length: 100000\r\n\r\nabc", "body arrives too slowly"),
            (head, "headers arrive too slowly"),
            (b"", "headers arrive too slowly"),
        ):
            with socket.create_connection(service.address, timeout=200) as connection:
                connection.sendall(sent)
                status, body = answer_on(connection)
            assert status == 408
            assert said in sentence(body)
        with socket.create_connection(service.address, timeout=200) as connection:  # a drop now and then does not help
            connection.sendall(head + b"content-length: 100000\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    connection.sendall(b"x")
                    time.sleep(0.01)
            assert answer_on(connection)[0] in (0, 408)
        assert {408} == {event["status"] for event in service.events("request")} - {200}


def test_one_address_holds_a_limited_number_of_connections(small, release_of, tmp_path) -> None:
    with running(tmp_path, Registry(release_of(small.bundle)), connections_per_address=4) as service:
        with contextlib.ExitStack() as stack:
            service.http.close()
            held = [stack.enter_context(socket.create_connection(service.address, timeout=200)) for _ in range(6)]
            answers = []
            for connection in held[4:]:
                answers.append(answer_on(connection))
        assert [status for status, _ in answers] == [429, 429]
        assert "as many connections" in sentence(answers[0][1])


def test_a_client_has_a_limited_number_of_uploads_at_once(service, clinic) -> None:
    head = f"POST /keys HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {clinic.token}\r\ncontent-length: 9999\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            connection = stack.enter_context(socket.create_connection(service.address, timeout=200))
            connection.sendall(head.encode() + os.urandom(100))
        wait_until(lambda: clinic.ask(keys="0" * 64).status_code == 429, "the uploads were not counted")
        answer = clinic.ask(keys="0" * 64)
        assert "at once" in refusal(answer, 429)
        assert int(answer.headers["retry-after"]) >= 1
    wait_until(lambda: clinic.ask(keys="0" * 64).status_code == 404, "the places were not given back")


def test_connections_that_were_refused_take_no_place_of_others(small, release_of, tmp_path) -> None:
    limits = {"connections_per_address": 4, "connections": 8}
    with running(tmp_path, Registry(release_of(small.bundle)), **limits) as service, contextlib.ExitStack() as stack:
        service.http.close()
        for _ in range(20):  # none of them reads what it is told, or closes
            stack.enter_context(socket.create_connection(service.address, timeout=200))
        elsewhere = stack.enter_context(
            socket.create_connection(service.address, timeout=200, source_address=("127.0.0.2", 0))
        )
        elsewhere.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert answer_on(elsewhere)[0] == 200
