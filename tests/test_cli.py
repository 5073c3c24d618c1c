"""The command answers fast and in sentences."""

import os
import subprocess
import sys
from pathlib import Path

TOKEN = "primia_0123abcd_" + "5e" * 32


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("PRIMIA_TOKEN", "PRIMIA_PASSPHRASE")}
    return subprocess.run(
        [sys.executable, "-m", "primia.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env=inherited | environment,
    )


def refusal(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert line.startswith("primia: ") and line.endswith(".")
    return line


def test_help_needs_none_of_the_slow_libraries() -> None:
    slow = (
        "torch",
        "monai",
        "tenseal",
        "opacus",
        "pydicom",
        "httpx",
        "cryptography",
        "pydantic",
        "numpy",
        "rich.table",
    )
    code = f"import sys, primia.cli; print([m for m in {slow} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    said = run("--help").stdout
    assert all(command in said for command in ("keygen", "enrol", "diagnose", "ledger", "token"))


def test_diagnosing_without_keys_says_how_to_make_them(tmp_path: Path) -> None:
    for command in (("diagnose", "x.png"), ("enrol",)):
        assert "holds no complete set of keys; make one with keygen" in refusal(run(*command, "--keys", str(tmp_path)))


def test_a_ledger_that_is_not_whole_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text("not a line of a ledger\n")
    for path, reason in (("ledger.jsonl", "was changed: line 1 "), ("nowhere.jsonl", "There is no ledger")):
        answer = run("ledger", "verify", str(tmp_path / path))
        assert answer.returncode == 1
        assert reason in answer.stderr.splitlines()[-1]
        assert "Traceback" not in answer.stderr


def keygen(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("keygen", "--server", "http://127.0.0.1:9", "--keys", str(folder), *arguments, **environment)


def test_a_server_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    assert "cannot be reached (ConnectError)" in refusal(keygen(tmp_path, PRIMIA_TOKEN=TOKEN))
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal_nothing_is_asked_for(tmp_path: Path) -> None:
    asked = refusal(keygen(tmp_path))
    assert "Token needed, and there is no terminal to ask at; name a file that holds it (--token-file), or set" in asked
    asked = refusal(keygen(tmp_path, "--passphrase", PRIMIA_TOKEN=TOKEN))
    assert "Passphrase needed, and there is no terminal to ask at; set PRIMIA_PASSPHRASE" in asked


def test_a_token_is_read_from_a_file_and_never_an_argument(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    assert "cannot be reached" in refusal(keygen(tmp_path / "keys", "--token-file", str(tmp_path / "token")))
    assert "cannot be read" in refusal(keygen(tmp_path / "keys", "--token-file", str(tmp_path / "missing")))
    (tmp_path / "token").write_text("no token")
    assert "not of the form primia_" in refusal(keygen(tmp_path / "keys", "--token-file", str(tmp_path / "token")))
    assert keygen(tmp_path / "keys", "--token", TOKEN).returncode == 2


def test_a_file_with_a_token_is_closed_to_others_like_the_keys(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    for mode in (0o644, 0o640, 0o604):
        (tmp_path / "token").chmod(mode)
        said = refusal(keygen(tmp_path / "keys", "--token-file", str(tmp_path / "token")))
        assert (
            f"{tmp_path / 'token'} can be read or changed by other users of this machine; run chmod 600 on it" in said
        )
    assert not (tmp_path / "keys").exists()


def test_wrong_options_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, reason in (
        (["--fingerprint", "ab"], "A fingerprint has 64 hexadecimal digits"),
        (["--model", "No Model"], "A model's name is a small letter and at most 31"),
        (["--server", "http://hospital.example"], "is another machine, and plain http"),
        (["--server", "https://127.0.0.1:9", "--ca", str(tmp_path / "ca.pem")], "holds no certificates"),
        (["--keys", str(tmp_path / "full")], "already holds keys or other files"),
    ):
        assert reason in refusal(keygen(tmp_path / "keys", *arguments, PRIMIA_TOKEN=TOKEN))
