import datetime
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from typer.testing import CliRunner

from primia.cli_token import app
from primia.diagnosis.service.refusals import Refusal
from primia.diagnosis.service.tokens import Tokens
from primia.errors import EncryptionError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "serving" / "tokens.json"


@pytest.fixture
def tokens(path):
    return Tokens(path)


def refused(tokens: Tokens, header: str | None) -> str:
    with pytest.raises(Refusal) as caught:
        tokens.holder(header)
    assert caught.value.status == 401
    assert caught.value.headers()["www-authenticate"] == "Bearer"
    return str(caught.value)


def test_a_token_proves_its_holder(tokens) -> None:
    issued = tokens.add("clinic", daily=7, days=1)
    assert issued.text.startswith(f"primia_{issued.token.id}_")
    assert tokens.holder(f"Bearer {issued.text}") == issued.token
    assert tokens.holder(f"bearer {issued.text}").daily == 7


def test_the_file_keeps_no_secret_and_is_private(tokens, path) -> None:
    text = tokens.add("clinic", daily=7, days=1).text
    assert text.split("_")[2] not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer x", "Basic primia_00000000_" + "0" * 64])
def test_what_is_no_token_is_refused(tokens, header) -> None:
    assert "carries no token" in refused(tokens, header)


def test_a_wrong_secret_and_an_unknown_id_are_told_alike(tokens) -> None:
    text = tokens.add("clinic", daily=7, days=1).text
    wrong = text[:-1] + ("0" if text[-1] != "0" else "1")
    unknown = f"primia_{'f' * 8}_{text.split('_')[2]}"
    assert refused(tokens, f"Bearer {wrong}") == refused(tokens, f"Bearer {unknown}")


def test_an_unknown_id_does_not_match_the_hash_it_is_compared_with(tokens) -> None:
    assert "unknown" in refused(tokens, f"Bearer primia_{'0' * 8}_{'0' * 64}")


def test_another_process_revokes_and_the_reader_notices(tokens, path) -> None:
    issued = tokens.add("clinic", daily=7, days=1)
    assert tokens.holder(f"Bearer {issued.text}")
    code = "from primia.cli_token import app; app()"
    command = [sys.executable, "-c", code, "revoke", issued.token.id, "--state", str(path.parent)]
    assert "is revoked" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "revoked" in refused(tokens, f"Bearer {issued.text}")
    assert tokens.valid_ids() == frozenset()


def test_a_token_expires(tokens, path) -> None:
    issued = tokens.add("clinic", daily=7, days=1)
    content = json.loads(path.read_text())
    content["tokens"][0]["expires"] = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC).isoformat()
    path.write_text(json.dumps(content))
    assert "expired" in refused(tokens, f"Bearer {issued.text}")


def test_a_damaged_file_lets_nobody_in(tokens, path) -> None:
    issued = tokens.add("clinic", daily=7, days=1)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(Refusal, match="cannot read its tokens") as caught:
        tokens.holder(f"Bearer {issued.text}")
    assert caught.value.status == 503
    with pytest.raises(EncryptionError, match="is damaged"):
        tokens.add("another", daily=1, days=1)  # and nothing is overwritten
    path.unlink()
    assert "unknown" in refused(tokens, f"Bearer {issued.text}")


def test_tokens_made_at_the_same_time_are_all_kept(path) -> None:
    barrier = threading.Barrier(8)

    def add(number: int) -> str:
        barrier.wait()
        return Tokens(path).add(f"clinic {number}", daily=1, days=1).token.id

    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(add, range(8)))
    assert {token.id for token in Tokens(path).all()} == made
    assert len(made) == 8


@pytest.mark.parametrize(
    ("name", "daily", "days", "said"),
    [
        ("", 1, 1, "needs a name"),
        ("a\nb", 1, 1, "needs a name"),
        ("clinic", -1, 1, "needs a name"),
        ("clinic", 1, 1e9, "before the year 9999"),
        ("clinic", 1, float("nan"), "before the year 9999"),
        ("clinic", 1, 0, "expired at once"),
    ],
)
def test_impossible_tokens_are_refused_and_not_written(tokens, path, name, daily, days, said) -> None:
    with pytest.raises(EncryptionError, match=said):
        tokens.add(name, daily=daily, days=days)
    assert not path.exists()


def test_a_name_has_one_valid_token(tokens) -> None:
    first = tokens.add("clinic", daily=1, days=1)
    with pytest.raises(EncryptionError, match="has a valid token already"):
        tokens.add("clinic", daily=1, days=1)
    tokens.revoke(first.token.id)
    assert tokens.add("clinic", daily=1, days=1)


def test_the_command_line_shows_a_token_once(path) -> None:
    runner = CliRunner()
    added = runner.invoke(app, ["add", "clinic", "--daily", "0", "--state", str(path.parent)])
    assert added.exit_code == 0
    text = added.stdout.strip()
    assert Tokens(path).holder(f"Bearer {text}").daily == 0
    listed = runner.invoke(app, ["list", "--state", str(path.parent)]).stdout
    ident, secret = text.split("_")[1:]
    assert ident in listed and "clinic" in listed and "valid" in listed
    assert secret not in listed
    unknown = runner.invoke(app, ["revoke", "ffffffff", "--state", str(path.parent)])
    assert isinstance(unknown.exception, EncryptionError)
    assert "primia token list" in str(unknown.exception)
