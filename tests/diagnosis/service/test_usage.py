import datetime

import pytest

from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.usage import Usage
from primia.errors import EncryptionError

NOON = datetime.datetime(2026, 3, 4, 12, tzinfo=datetime.UTC).timestamp()


class Clock:
    now = NOON

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def usage(tmp_path, clock):
    usage = Usage(tmp_path / "usage.sqlite", clock=clock)
    yield usage
    usage.close()


def ask(usage: Usage, nonce: bytes, *, client: str = "a", most: int = 2) -> None:
    usage.take_question(client, nonce, most=most, until=NOON + 600)


def test_a_quota_is_used_up_and_is_new_on_the_next_day(usage, clock) -> None:
    ask(usage, b"1")
    ask(usage, b"2")
    with pytest.raises(Refusal, match="2 questions a day") as caught:
        ask(usage, b"3")
    assert caught.value.status == 429
    assert caught.value.headers()["retry-after"] == str(12 * 3600)
    with pytest.raises(Refusal, match="used up"):
        usage.check_quota("a", "question", most=2)
    ask(usage, b"3", client="b")  # another client's day
    clock.now += 12 * 3600
    ask(usage, b"3")


def test_a_restart_forgets_neither_quota_nor_nonces(tmp_path, usage, clock) -> None:
    ask(usage, b"1")
    usage.take_enrolment("a", most=5)
    again = Usage(tmp_path / "usage.sqlite", clock=clock)
    assert (again.used("a", "question"), again.used("a", "enrolment")) == (1, 1)
    with pytest.raises(Refusal, match="asked already"):
        ask(again, b"1")
    again.close()


def test_a_nonce_belongs_to_its_client_and_is_forgotten_in_time(usage, clock) -> None:
    ask(usage, b"1", most=9)
    ask(usage, b"1", client="b")
    with pytest.raises(Refusal, match="asked already") as caught:
        ask(usage, b"1", most=9)
    assert caught.value.status == 409
    assert usage.used("a", "question") == 1  # a replay costs nothing
    clock.now += 601
    ask(usage, b"1", most=9)


def test_a_refused_question_does_not_use_up_its_nonce(usage) -> None:
    with pytest.raises(Refusal, match="used up"):
        ask(usage, b"1", most=0)
    ask(usage, b"1", most=1)


def test_what_could_not_be_answered_is_given_back_once(usage) -> None:
    ask(usage, b"1")
    usage.give_back_question("a", b"1")
    usage.give_back_question("a", b"1")
    assert usage.used("a", "question") == 0
    ask(usage, b"1")


def test_the_file_is_private_and_a_damaged_one_is_said(tmp_path, usage) -> None:
    assert (tmp_path / "usage.sqlite").stat().st_mode & 0o777 == 0o600
    damaged = tmp_path / "damaged.sqlite"
    damaged.write_bytes(b"no base at all" * 100)
    with pytest.raises(EncryptionError, match="only today's quotas are lost"):
        Usage(damaged)


def test_a_base_that_cannot_be_written_refuses_instead_of_answering_uncounted(tmp_path, clock) -> None:
    usage = Usage(tmp_path / "usage.sqlite", clock=clock)
    usage._base.execute("PRAGMA query_only = ON")
    with pytest.raises(Refusal, match="cannot count") as caught:
        ask(usage, b"1")
    assert caught.value.status == 503
    usage.close()
