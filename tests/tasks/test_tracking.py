"""One MLflow run per pass, in a real store."""

from pathlib import Path

import pytest

from tasks.tracking import RunLog, flatten, open_store, session_key

pytestmark = pytest.mark.system  # a real store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRIMIA_STATE", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    return tmp_path


def test_stages_of_one_pass_write_to_one_run_and_passes_to_their_own(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRIMIA_SESSION", "first")
    first = RunLog.of_this_pass()
    assert RunLog.of_this_pass().run_id == first.run_id
    monkeypatch.setenv("PRIMIA_SESSION", "second")
    second = RunLog.of_this_pass()
    assert second.run_id != first.run_id
    second.parameters({"federation": {"rounds": 3}})
    second.parameters({"federation": {"rounds": 3}})
    for step in (1, 2):
        second.metrics("round", {"validation_score": step / 10, "name": "x", "flag": True}, step=step)
    second.ended(failed=True)
    run = open_store().get_run(second.run_id)
    assert run.data.params == {"federation.rounds": "3"}
    assert run.data.metrics == {"round.validation_score": 0.2}
    assert run.info.status == "FAILED"


def test_a_pass_outside_dvc_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIMIA_SESSION", raising=False)
    assert session_key().startswith(("stage-", "dvc-"))


def test_nested_values_get_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": "x"}) == {"a.b": 1, "a.c": "1, 2", "d": "x"}
