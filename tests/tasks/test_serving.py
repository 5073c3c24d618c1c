"""Limits and addresses of the service are checked before anything starts."""

import socket
from pathlib import Path

import pytest

from primia.config import Registry
from primia.errors import ConfigError, EncryptionError
from tasks.serving import serve_champion, settings_of


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PRIMIA_STATE", str(tmp_path))
    return tmp_path


def test_a_limit_replaces_a_default_and_events_go_below_the_state_folder(state: Path) -> None:
    settings = settings_of(["keys_per_client=7", "workers=1"])
    assert (settings.keys_per_client, settings.workers) == (7, 1)
    assert settings.log == state / "serving" / "events.jsonl"
    assert settings.rate_burst == settings_of([]).rate_burst


def test_an_unknown_limit_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"nonsense is no limit .* keys_per_client, "):
        settings_of(["nonsense=1"])


@pytest.mark.parametrize("pair", ["workers=0", "workers=many", "workers"])
def test_a_limit_out_of_range_is_refused_by_name(pair: str) -> None:
    with pytest.raises(ConfigError, match=r"--limit workers=.* cannot be used"):
        settings_of([pair])


def test_what_the_service_refuses_to_run_with_is_all_it_says(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EncryptionError, match=r"0\.0\.0\.0 can be reached from other machines"):
        serve_champion(Registry(), host="0.0.0.0", port=8443)
    with pytest.raises(EncryptionError, match="name both files"):
        serve_champion(Registry(), host="127.0.0.1", port=8443, certificate=state / "cert.pem")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(EncryptionError, match="name another port"):
        serve_champion(Registry(), host="127.0.0.1", port=taken.getsockname()[1])
    assert capsys.readouterr().out == ""
