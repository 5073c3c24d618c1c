"""Thousands of requests that were right once, before something in them was changed."""

import collections
import contextlib
import os
import random
import socket
import time
from collections.abc import Callable

import msgpack
import pytest
from diagnosing import NAME, Clinic, Registry, answer_on, running, sentence
from mutants import changed_fields, changed_headers, damaged_ciphertext, damaged_keys, some_bytes

from primia.diagnosis.wire import SIGNATURE_HEADER, Enrolment, Question, digest_of, sign

pytestmark = pytest.mark.system

MUTANTS = 2000
# Besides 4xx: a duplicate or compressed body, or a message that is no HTTP, may not end in a server's error either.
ALLOWED = frozenset({400, 401, 404, 405, 408, 409, 411, 413, 415, 422, 429, 431, 501, 503})


class Fuzz:
    """Sends mutants of valid requests over connections of their own, and judges each answer."""

    def __init__(self, clinic: Clinic, seed: int) -> None:
        self.clinic, self.random = clinic, random.Random(seed)
        self.statuses: collections.Counter[int] = collections.Counter()
        self.sentences: set[str] = set()

    def send(self, kind: type, body: bytes, *, signed: bool, head: Callable[[list[bytes]], list[bytes]]) -> None:
        signature = sign(self.clinic.identity, kind, body) if signed else "00" * 64
        path = "/keys" if kind is Enrolment else f"/models/{NAME}/predict"
        lines = [f"POST {path} HTTP/1.1".encode(), b"host: x", b"connection: close"]
        lines += [f"authorization: Bearer {self.clinic.token}".encode(), f"{SIGNATURE_HEADER}: {signature}".encode()]
        lines.append(b"content-length: %d" % len(body))
        with socket.create_connection(self.clinic.service.address, timeout=200) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"\r\n".join(head(lines)) + b"\r\n\r\n" + body)
            status, answer = answer_on(connection)
        self.judge(status, answer)

    def judge(self, status: int, answer: bytes) -> None:
        self.statuses[status] += 1
        if status in (0, 200, 201):  # the connection was reset, or the change did not matter (a doubled host)
            return
        assert status in ALLOWED, (status, answer)
        if answer:  # HEAD has none
            self.sentences.add(sentence(answer))


def test_no_mutant_gets_more_than_one_sentence_and_the_pool_lives_on(small, release_of, tmp_path) -> None:
    limits = {"workers": 2, "pace_slack_s": 2.0, "header_s": 2.0, "daily_enrolments": 10**6, "rate_per_s": 1e6}
    with running(tmp_path, Registry(release_of(small.bundle)), rate_burst=10**6, **limits) as service:
        clinic = Clinic(service, small, service.issue())
        assert clinic.enrol().status_code == 201
        assert clinic.is_answered_rightly()
        pids = service.worker_pids()
        fuzz = Fuzz(clinic, seed=20261125)
        tiny_keys = {"public": b"x" * 400, "relinearisation": b"y" * 400, "galois": b"z" * 400}

        def same(lines: list[bytes]) -> list[bytes]:
            return lines

        def headers(lines: list[bytes]) -> list[bytes]:
            return changed_headers(fuzz.random, lines)

        for number in range(MUTANTS):
            question = clinic.question(nonce=os.urandom(16), time=int(time.time()))
            enrolment = clinic.enrolment(keys=msgpack.packb(tiny_keys))
            kind, body = (Enrolment, enrolment) if number % 4 == 0 else (Question, question)
            match number % 12:
                case 0 | 1:
                    fuzz.send(kind, some_bytes(fuzz.random, body), signed=False, head=same)
                case 2 | 3 | 4:
                    fuzz.send(kind, some_bytes(fuzz.random, body), signed=True, head=same)
                case 5 | 6 | 8:
                    fuzz.send(kind, changed_fields(fuzz.random, body), signed=True, head=same)
                case 7:
                    fuzz.send(Question, damaged_ciphertext(fuzz.random, question), signed=True, head=same)
                case 9:
                    whole = clinic.enrolment() if number % 120 == 9 else enrolment
                    fuzz.send(Enrolment, damaged_keys(fuzz.random, whole), signed=True, head=same)
                case _:
                    fuzz.send(kind, body[:2000], signed=True, head=headers)

        statuses = fuzz.statuses
        assert sum(statuses.values()) == MUTANTS
        # A share of damaged ciphertexts is still one (a bit in a random half): those were signed, hence sent like that.
        assert statuses[200] < MUTANTS / 10, statuses
        assert statuses[0] < MUTANTS / 50, statuses
        assert statuses[503] == 0, statuses
        assert statuses[422] > MUTANTS / 3, statuses
        text = " ".join(fuzz.sentences)
        # Mutants got as far as each of these checks.
        for part in ("signature", "no question", "no enrolment", "wrong or missing field", "encrypted image"):
            assert part in text, part
        for part in ("evaluation keys", "longer than", "compressed", "no HTTP", "nothing at this address", "token"):
            assert part.lower() in text.lower(), part
        for secret in (clinic.token, str(tmp_path), "Traceback", "0x"):
            assert secret not in text
        assert not service.events("unforeseen")
        assert service.worker_pids() == pids
        assert service.metric("primia_worker_restarts_total") == 0
        assert clinic.is_answered_rightly()
        assert digest_of(small.key_bytes) in {path.name for path in (service.state / "keys" / clinic.id).iterdir()}
