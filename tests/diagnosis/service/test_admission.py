"""Who is let in, and how often: tokens, quotas and rates over HTTP."""

import datetime
import json

import httpx
import pytest
from diagnosing import NAME, Clinic, Registry, refusal, running

from primia.diagnosis.service.tokens import Tokens
from primia.diagnosis.wire import Enrolment, Question

pytestmark = pytest.mark.system


def test_nothing_is_told_without_a_token_also_on_loopback(service, clinic) -> None:
    for method, path in (("GET", f"/models/{NAME}"), ("POST", "/keys"), ("POST", f"/models/{NAME}/predict")):
        answer = httpx.request(method, f"{service.url}{path}", content=b"x" if method == "POST" else None)
        assert "carries no token" in refusal(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
        unknown = {"authorization": f"Bearer primia_{'0' * 8}_{'0' * 64}"}
        said = refusal(httpx.request(method, f"{service.url}{path}", headers=unknown), 401)
        assert said == "The token is unknown here; ask who runs the service for a new one."
        for header in (f"Bearer {clinic.token[:-1]}", clinic.token):
            refusal(httpx.request(method, f"{service.url}{path}", headers={"authorization": header}), 401)


def test_a_revoked_token_is_refused_at_once_and_an_expired_one_too(service, small) -> None:
    asking = Clinic(service, small, service.issue())
    assert asking.enrol().status_code == 201
    Tokens(service.state / "tokens.json").revoke(asking.id)
    assert "revoked" in refusal(asking.ask(), 401)
    late = Clinic(service, small, service.issue())
    path = service.state / "tokens.json"
    content = json.loads(path.read_text())
    content["tokens"][-1]["expires"] = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).isoformat()
    path.write_text(json.dumps(content))
    assert "expired" in refusal(late.enrol(), 401)


def test_a_quota_counts_what_was_answered_and_outlives_a_restart(small, release_of, tmp_path) -> None:
    registry = Registry(release_of(small.bundle))
    with running(tmp_path, registry) as service:
        clinic = Clinic(service, small, service.issue(daily=2))
        assert clinic.enrol().status_code == 201
        refusal(clinic.ask(ciphertexts=[small.fresh] * 2), 422)  # never reached a worker: costs nothing
        assert clinic.is_answered_rightly()
        asked = clinic.question()
        assert clinic.send(Question, asked).status_code == 200
        answer = clinic.ask()
        assert "2 questions a day" in refusal(answer, 429)
        assert 0 < int(answer.headers["retry-after"]) <= 86_400
        generous = Clinic(service, small, service.issue(), identity=clinic.identity)
        assert generous.enrol().status_code == 201
        replayed = generous.question()
        assert generous.send(Question, replayed).status_code == 200
    with running(tmp_path, registry) as service:
        again = Clinic(service, small, clinic.token, identity=clinic.identity)
        assert "2 questions a day" in refusal(again.ask(), 429)
        generous = Clinic(service, small, generous.token, identity=clinic.identity)
        assert "asked already" in refusal(generous.send(Question, replayed), 409)
        assert generous.is_answered_rightly()  # with keys that outlived the restart


def test_a_token_with_a_quota_of_nothing_gets_nothing(service, small) -> None:
    barred = Clinic(service, small, service.issue(daily=0))
    for answer in (barred.enrol(), barred.ask()):
        assert "may not ask (its daily quota is 0)" in refusal(answer, 403)
        assert "retry-after" not in answer.headers
    assert not (service.state / "keys" / barred.id).exists()


def test_enrolments_and_requests_have_limits_of_their_own(small, release_of, tmp_path) -> None:
    limits = {"daily_enrolments": 2, "rate_per_s": 0.01, "rate_burst": 6}
    with running(tmp_path, Registry(release_of(small.bundle)), **limits) as service:
        clinic = Clinic(service, small, service.issue())
        refusal(clinic.send(Enrolment, b"no message"), 422)  # was read, so it counts
        assert clinic.enrol().status_code == 201
        assert "2 enrolments a day" in refusal(clinic.send(Enrolment, clinic.enrolment()), 429)
        assert clinic.is_answered_rightly()
        assert [clinic.get("/models/x").status_code for _ in range(3)] == [404, 404, 429]
        answer = clinic.ask()
        assert "more slowly" in refusal(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 100
        assert Clinic(service, small, service.issue()).get(f"/models/{NAME}").status_code == 200


def test_full_keys_are_refused_and_nobody_elses_are_lost(small, release_of, tmp_path) -> None:
    with running(tmp_path, Registry(release_of(small.bundle)), most_keys=1) as service:
        first, second = (Clinic(service, small, service.issue()) for _ in range(2))
        assert first.enrol().status_code == 201
        answer = second.enrol()
        assert "as many keys as it can" in refusal(answer, 503)
        assert "retry-after" in answer.headers
        assert first.is_answered_rightly()
        Tokens(service.state / "tokens.json").revoke(first.id)
