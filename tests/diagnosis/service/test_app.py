"""What the service answers to those who ask rightly, and to those who ask for what there is not."""

import httpx
import pytest
from diagnosing import NAME, Clinic, description_of, refusal

from primia.diagnosis.wire import Answer, Question, decode, digest_of, is_identity

pytestmark = pytest.mark.system


def test_a_diagnosis_is_that_of_the_network_in_the_clear(clinic) -> None:
    assert clinic.is_answered_rightly()


def test_the_model_is_described_and_signed(service, clinic, small) -> None:
    said = description_of(clinic.get(f"/models/{NAME}"))
    assert said.specification == small.bundle.specification
    assert (said.name, said.version, said.marks) == (NAME, "1", None)
    assert said.identity == service.app.state.identity


def test_keys_are_named_by_their_digest_and_may_be_enrolled_again(service, clinic, small) -> None:
    kept = service.metric("primia_keys_kept")
    answer = clinic.enrol()
    assert answer.status_code == 201
    assert answer.json() == {"keys": digest_of(small.key_bytes), "expire_s": 86_400.0}
    assert service.metric("primia_keys_kept") == kept


def test_an_answer_tells_how_long_it_waited_and_took(clinic) -> None:
    timing = clinic.ask().headers["server-timing"]
    queue, evaluate = (part.split(";dur=") for part in timing.split(", "))
    assert (queue[0], evaluate[0]) == ("queue", "evaluate")
    assert float(queue[1]) >= 0 and float(evaluate[1]) > 0


def test_what_is_not_there_is_said_in_one_sentence(service, clinic) -> None:
    for path in ("/", "/docs", "/openapi.json", "/keys/", "/models", "/model%00", f"/models/{NAME}/predict/"):
        assert "nothing at this address" in refusal(clinic.get(path), 404)
    assert "does not take that method" in refusal(clinic.get("/keys"), 405)
    assert "does not take that method" in refusal(clinic.http.delete(f"{service.url}/healthz"), 405)
    assert "No model of this name" in refusal(clinic.get("/models/another"), 404)


def test_every_answer_has_security_headers(service, clinic) -> None:
    for answer in (httpx.get(f"{service.url}/healthz"), clinic.get("/nowhere"), clinic.ask()):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers


def test_health_and_metrics_need_no_token_and_name_no_client(service, small) -> None:
    token = service.issue("St. Nowhere Hospital")
    named = Clinic(service, small, token)
    named.enrol()
    body = named.question()
    named.logits(named.send(Question, body), body)
    assert httpx.get(f"{service.url}/healthz").json() == {"status": "ok", "model": {"name": NAME, "version": "1"}}
    text = httpx.get(f"{service.url}/metrics").text
    assert f'primia_model_info{{name="{NAME}",version="1"}} 1.0' in text
    assert 'primia_requests_total{route="/keys",status="201"}' in text
    assert service.metric("primia_workers_alive") == 2
    assert service.metric("primia_evaluate_seconds_count") >= 1
    for secret in ("Nowhere", token, named.id, token.split("_")[2]):
        assert secret not in text


def test_the_log_tells_what_happened_and_no_secret(service, clinic) -> None:
    body = clinic.question()
    answer = clinic.send(Question, body)
    line = service.events("request")[-1]
    assert set(line) == {"time", "event", "client", "route", "status", "ms", "bytes_in", "bytes_out"}
    assert (line["client"], line["route"], line["status"]) == (clinic.id, "/models/{name}/predict", 200)
    assert (line["bytes_in"], line["bytes_out"]) == (len(body), len(answer.content))
    text = service.log.read_text()
    assert clinic.token.split("_")[2] not in text
    assert answer.headers["primia-signature"] not in text
    assert service.log.stat().st_mode & 0o777 == 0o600


def test_an_identity_is_proven_to_all_for_a_fresh_nonce_only(service) -> None:
    nonce = "0123456789abcdef" * 2
    proof = httpx.get(f"{service.url}/identity", params={"nonce": nonce}).json()
    assert proof["identity"] == service.app.state.identity
    assert is_identity(proof["identity"], nonce, proof["signature"])
    assert not is_identity(proof["identity"], "0" * 32, proof["signature"])
    for wrong in ("", "0" * 31, "0" * 33, "A" * 32):
        assert httpx.get(f"{service.url}/identity", params={"nonce": wrong}).status_code == 422


def test_an_answer_names_the_description_it_was_given_under(clinic) -> None:
    answer = decode(Answer, clinic.ask().content)
    assert answer.description == digest_of(clinic.get(f"/models/{NAME}").content)
