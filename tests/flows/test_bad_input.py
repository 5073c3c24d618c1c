"""A mistake ends in one sentence, exit status 1, and leaves what was there."""

import shutil
import socket

import pytest
from tiny_checkout import Checkout, make_checkout

pytestmark = pytest.mark.system


def sentence(answer) -> str:
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr
    ours = [line for line in answer.stderr.splitlines() if line.startswith("primia: ")]
    assert len(ours) == 1, answer.stderr
    return ours[0]


@pytest.fixture(scope="module")
def workspace(served: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout of its own, whose params.yaml may be spoiled; it borrows a server, which saves starting many."""
    checkout = make_checkout(tmp_path_factory.mktemp("spoiled"))
    shutil.copy(served.folder / ".env", checkout.folder)
    return checkout


def test_an_unknown_key_is_told_before_anything_starts(workspace: Checkout) -> None:
    before = (workspace.folder / "params.yaml").read_text()
    workspace.set_params({"federation": {"round": 3}})
    said = sentence(workspace.run("flows.pipeline"))
    (workspace.folder / "params.yaml").write_text(before)
    assert "federation.round is not a known key" in said
    assert not (workspace.folder / "data").exists()


def test_a_missing_folder_is_told_and_earlier_outputs_stay(workspace: Checkout) -> None:
    kept = workspace.folder / "data" / "raw" / "source.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    before = (workspace.folder / "params.yaml").read_text()
    folder = {"source": "image_folder", "folder": "/nowhere/images"}
    workspace.set_params({"ingest": folder, "preprocess": {"dealing": "iid"}})
    said = sentence(workspace.run("flows.ingest"))
    (workspace.folder / "params.yaml").write_text(before)
    assert "/nowhere/images" in said
    assert kept.read_text() == "{}"
    shutil.rmtree(workspace.folder / "data")


def test_an_unknown_profile_is_told_and_changes_nothing(workspace: Checkout) -> None:
    before = (workspace.folder / "params.yaml").read_text()
    said = sentence(workspace.run("flows.pipeline", "--profile", "nonsense"))
    assert "choose one of chest_xray, chest_xray_private" in said
    assert (workspace.folder / "params.yaml").read_text() == before


@pytest.mark.parametrize("key", ["PREFECT_PORT", "DIAGNOSIS_PORT"])
def test_a_port_that_is_taken_is_told_and_nothing_is_left_running(workspace: Checkout, key: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = sentence(workspace.run("tasks.services", "up", **{key: str(port)}))
    assert f"Port {port}" in said
    assert f"{key}={port + 1}" in said
    assert not (workspace.folder / ".state" / "services").exists()


def test_without_a_git_repository_the_pipeline_says_what_it_needs(workspace: Checkout) -> None:
    (workspace.folder / ".git").rename(workspace.folder / "git.away")
    said = sentence(workspace.run("flows.pipeline", GIT_CEILING_DIRECTORIES=str(workspace.folder.parent)))
    (workspace.folder / "git.away").rename(workspace.folder / ".git")
    assert "is no git repository" in said


def test_serve_refuses_a_certificate_that_is_none_and_an_unknown_limit(workspace: Checkout) -> None:
    port = str(workspace.ports[2])
    files = ("--certificate", "params.yaml", "--private-key", "params.yaml")
    assert "are no certificate and its private key" in sentence(workspace.run("flows.serve", "--port", port, *files))
    assert "nonsense is no limit" in sentence(workspace.run("flows.serve", "--limit", "nonsense=1"))


def test_a_second_service_of_a_checkout_is_refused(served: Checkout, workspace: Checkout) -> None:
    said = sentence(served.run("flows.serve", "--port", str(workspace.ports[2])))
    assert "Another service uses" in said


def test_a_promotion_needs_a_version_that_exists(workspace: Checkout) -> None:
    answer = workspace.run("flows.promote", "--version", "7", "--name", "A. Reviewer", "--reason", "because")
    assert "has no version 7" in sentence(answer)
