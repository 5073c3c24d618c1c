"""State lives at one absolute place, shared by a checkout and its queued experiments."""

from pathlib import Path

import pytest

from tasks.environment import prepare, state_folder


@pytest.fixture(autouse=True)
def no_state_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRIMIA_STATE", raising=False)


def test_state_is_below_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_folder() == tmp_path.resolve() / ".state"


def test_a_queued_experiment_shares_the_state_of_its_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    experiment.mkdir(parents=True)
    monkeypatch.chdir(experiment)
    assert state_folder() == tmp_path.resolve() / ".state"


def test_a_state_folder_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIMIA_STATE", str(tmp_path / "elsewhere"))
    assert state_folder() == (tmp_path / "elsewhere").resolve()


def test_a_server_that_is_gone_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    # Everything prepare sets is taken back at the end of the test.
    monkeypatch.setattr(os, "environ", dict(os.environ))
    os.environ.pop("PREFECT_API_URL", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("PREFECT_API_URL=http://127.0.0.1:9/api\n")
    prepare()
    assert os.environ["PREFECT_API_URL"] == ""
    assert "going on with a temporary one" in capsys.readouterr().out
