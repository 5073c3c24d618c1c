"""The commands keygen, enrol and diagnose against a service, as a hospital types them."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from wire_service import TOKEN

pytestmark = pytest.mark.system


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PRIMIA_")}
    return subprocess.run(
        [sys.executable, "-m", "primia.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=400,  # MONAI takes its time to import on a busy machine
        stdin=subprocess.DEVNULL,
        env=inherited | {"COLUMNS": "200"} | environment,
    )


@pytest.fixture
def image(tmp_path) -> Path:
    grey = np.random.default_rng(0).integers(0, 256, size=(40, 40), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_from_keys_to_a_diagnosis(service, image, tmp_path) -> None:
    keys = tmp_path / "keys"
    made = run("keygen", "--server", service.url, "--keys", keys, PRIMIA_TOKEN=TOKEN)
    assert made.returncode == 0, made.stderr
    size = (keys / "evaluation.keys").stat().st_size / 1e6
    assert made.stdout == f"Keys are in {keys}; the evaluation keys ({size:.0f} MB) go to the server once.\n"
    assert f"The server signs as {service.fingerprint} and is trusted from now on" in made.stderr
    assert TOKEN not in made.stdout + made.stderr

    said = run("diagnose", image, "--keys", keys, "--explain")
    assert said.returncode == 0, said.stderr
    assert [line.split()[0] for line in said.stdout.splitlines()] == ["normal", "bacterial", "viral"]
    shares = [float(line.split()[1].rstrip("%")) for line in said.stdout.splitlines()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    for step in ("preprocess", "encrypt", "enrol", "send", "compute", "decrypt"):
        assert step in said.stderr
    assert "not a medical device" in said.stderr
    assert "primia-chest, version 7, marked: unfit for patients" in said.stderr

    told = run("diagnose", image, "--keys", keys, "--json")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert set(answer) >= {"probabilities", "seconds", "bytes", "model", "version", "marks", "model_digest"}
    assert answer["marks"] == "unfit for patients" and "not a medical device" in answer["disclaimer"]
    assert [round(100 * share, 1) for share in answer["probabilities"].values()] == pytest.approx(shares, abs=0.5)
    assert "not a medical device" in told.stderr and "unfit for patients" in told.stderr


def test_keys_under_a_passphrase_are_opened_from_the_environment_or_a_terminal(service, image, tmp_path) -> None:
    keys = tmp_path / "keys"
    more = {"PRIMIA_TOKEN": TOKEN, "PRIMIA_PASSPHRASE": "correct horse"}
    made = run("keygen", "--server", service.url, "--keys", keys, "--fingerprint", service.fingerprint, **more)
    assert made.returncode == 0, made.stderr
    assert "trusted from now on" not in made.stderr
    assert run("diagnose", image, "--keys", keys, PRIMIA_PASSPHRASE="correct horse").returncode == 0
    wrong = run("diagnose", image, "--keys", keys, PRIMIA_PASSPHRASE="correct horsf")
    assert wrong.returncode == 1 and "does not open the secret key" in wrong.stderr
    asked = run("diagnose", image, "--keys", keys)
    assert asked.returncode == 1 and "set PRIMIA_PASSPHRASE" in asked.stderr

    stdout, shown = typed("correct horse", after="Passphrase: ", command=["enrol", "--keys", str(keys)])
    assert "The server keeps the evaluation keys as" in stdout
    assert "correct horse" not in stdout + shown


def typed(answer: str, *, after: str, command: list[str]) -> tuple[str, str]:
    """Run a command at a terminal of its own and type `answer` once `after` shows: what it printed, what it showed.

    What is typed before the echo is off, and with it the prompt's last space there, is thrown away.
    """
    ours, theirs = pty.openpty()
    code = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, '-m', 'primia.cli', *sys.argv[1:]])"
    )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PRIMIA_")}
    with subprocess.Popen(
        [sys.executable, "-c", code, *command], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=inherited
    ) as process:
        os.close(theirs)
        shown = b""
        while after.encode() not in shown:
            shown += os.read(ours, 1024)
        os.write(ours, answer.encode() + b"\n")
        assert process.stdout is not None
        stdout = process.stdout.read().decode()
        shown += drained(ours)
        assert process.wait(60) == 0, shown
    os.close(ours)
    return stdout, shown.decode()


def drained(terminal: int) -> bytes:
    """What is left to read of a terminal whose other side is closed."""
    content = b""
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1024):
            content += piece
    return content


def test_a_token_given_to_enrol_is_kept(service, key_folder, copied, tmp_path) -> None:
    other = "primia_00000000_" + "00" * 32
    (copied / "token").write_text(other)
    refused = run("enrol", "--keys", copied)
    assert refused.returncode == 1 and "refused (401)" in refused.stderr
    (tmp_path / "new").write_text(TOKEN)
    (tmp_path / "new").chmod(0o600)
    assert run("enrol", "--keys", copied, "--token-file", tmp_path / "new").returncode == 0
    assert (copied / "token").read_text() == TOKEN
    (copied / "token").unlink()
    missing = run("enrol", "--keys", copied)
    assert (
        missing.returncode == 1
        and "token is missing or damaged; give the token again with primia enrol" in missing.stderr
    )
    assert run("enrol", "--keys", copied, "--token-file", tmp_path / "new").returncode == 0
    assert (copied / "token").read_text() == TOKEN


def test_a_bad_image_is_one_sentence_and_leaves_standard_output_empty(service, key_folder, tmp_path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for name, reason in (
        ("text.png", "is no PNG or JPEG image; give a grey PNG or JPEG file, or an uncompressed DICOM radiograph."),
        ("missing.png", "does not exist"),
        ("", "is a folder; name a file in it."),
    ):
        answer = run("diagnose", tmp_path / name, "--keys", key_folder, "--json")
        assert answer.returncode == 1 and answer.stdout == ""
        (line,) = answer.stderr.splitlines()
        assert line.startswith("primia: ") and reason in line
