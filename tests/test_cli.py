"""The command answers fast and in sentences."""

import subprocess
import sys
from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "primia.cli", *arguments], capture_output=True, text=True, timeout=60)


def test_help_needs_none_of_the_slow_libraries() -> None:
    code = "import sys, primia.cli; print([m for m in ('torch', 'monai', 'tenseal', 'opacus') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
    assert "diagnose" in run("--help").stdout


def test_diagnosing_without_keys_says_how_to_make_them(tmp_path: Path) -> None:
    answer = run("diagnose", "x.png", "--server", "http://127.0.0.1:9", "--keys", str(tmp_path))
    assert answer.returncode == 1
    assert "holds no complete set of keys" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_ledger_that_is_not_whole_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text("not a line of a ledger\n")
    for path, reason in (("ledger.jsonl", "was changed: line 1 "), ("nowhere.jsonl", "There is no ledger")):
        answer = run("ledger", "verify", str(tmp_path / path))
        assert answer.returncode == 1
        assert reason in answer.stderr.splitlines()[-1]
        assert "Traceback" not in answer.stderr


def test_a_server_that_cannot_be_reached_is_one_sentence(tmp_path: Path) -> None:
    answer = run("keygen", "--server", "http://127.0.0.1:9", "--keys", str(tmp_path))
    assert answer.returncode == 1
    assert answer.stderr.startswith("primia: ")
    assert len(answer.stderr.splitlines()) == 1
