import pytest

from primia.errors import FederationError, ProtocolError, SiteRefusal
from primia.federation.history import History
from primia.secagg.session import Session


def session(round=1, attempt=1, purpose="train", run="run-0001"):
    return Session(run=run, round=round, attempt=attempt, purpose=purpose)


def test_a_session_is_admitted_once_even_after_a_restart(tmp_path):
    History(tmp_path).admit(session(), content="a", fresh_noise=False)
    for history in (History(tmp_path), History(tmp_path)):
        with pytest.raises(ProtocolError, match="answered before"):
            history.admit(session(), content="a", fresh_noise=False)
    History(tmp_path).check(session(attempt=2))
    History(tmp_path).check(session(run="run-0002"))


def test_a_round_is_never_rolled_back(tmp_path):
    history = History(tmp_path)
    for earlier in (session(0, purpose="statistics"), session(1), session(1, purpose="evaluate"), session(2)):
        history.admit(earlier, content="a", fresh_noise=False)
    for behind in (session(1, 9), session(1, 9, "evaluate"), session(0, 9, "statistics")):
        with pytest.raises(ProtocolError, match="never rolled back"):
            history.check(behind)


def test_an_unmasked_sum_is_repeated_only_for_the_same_question_or_with_fresh_noise(tmp_path):
    history = History(tmp_path)
    history.admit(session(), content="a", fresh_noise=False)
    history.admit(session(attempt=2), content="b", fresh_noise=False)  # nothing was unmasked yet
    history.release(session(attempt=2))
    with pytest.raises(SiteRefusal, match="was unmasked"):
        history.admit(session(attempt=3), content="a", fresh_noise=False)
    history.admit(session(attempt=3), content="b", fresh_noise=False)
    with pytest.raises(SiteRefusal, match="was unmasked"):
        History(tmp_path).admit(session(attempt=4), content="a", fresh_noise=False)  # remembered across attempts
    history.admit(session(attempt=4), content="c", fresh_noise=True)


def test_a_damaged_record_is_not_forgotten(tmp_path):
    (tmp_path / "run-0001.json").write_text("{")
    with pytest.raises(FederationError, match="damaged"):
        History(tmp_path).check(session())
