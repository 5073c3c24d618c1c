"""A profile becomes part of params.yaml, comments and all, or changes nothing."""

import shutil
from pathlib import Path

import pytest

from primia.config import load_params
from primia.errors import ConfigError
from tasks.setup import use_profile

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml")))
def test_every_profile_gives_valid_parameters_and_keeps_the_comments(workspace: Path, name: str) -> None:
    folder = None if name == "lungs" else str(workspace)  # lungs are phantoms
    use_profile(name, folder)
    params = load_params(workspace / "params.yaml")
    assert params.ingest.source == "phantom" if folder is None else params.ingest.folder == folder
    assert "# public, rounded number of training patients at a hospital" in (workspace / "params.yaml").read_text()


def test_a_profile_changes_only_the_lines_it_has_values_for(workspace: Path) -> None:
    use_profile("lungs", None)
    before = (ROOT / "params.yaml").read_text().splitlines()
    changed = [line for line in (workspace / "params.yaml").read_text().splitlines() if line not in before]
    assert "  local_steps: null              # a number: so many batches per round instead of epochs" in before
    assert changed and not [line for line in changed if "null" in line or line.split("#")[0].strip().endswith(":")]


def test_without_profile_and_folder_nothing_is_written(workspace: Path) -> None:
    use_profile(None, None)
    assert (workspace / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_a_folder_that_does_not_fit_is_refused_and_nothing_is_written(workspace: Path) -> None:
    with pytest.raises(ConfigError, match=r"set ingest\.source to image_folder"):
        use_profile(None, "/data/images")
    assert (workspace / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize(
    ("folder", "sentence"),
    [(None, r"no folder of images was named; add DATA="), ("/nowhere", r"The data folder /nowhere does not exist")],
)
def test_a_profile_of_real_images_without_them_is_refused_and_nothing_is_written(
    workspace: Path, folder: str | None, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        use_profile("hippocampus", folder)
    assert (workspace / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_an_unknown_profile_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="choose one of chest_xray"):
        use_profile("nonsense", None)
