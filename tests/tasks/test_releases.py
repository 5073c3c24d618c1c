"""The service answers with the approved champion of a real registry, follows it, and stops when approval ends."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from primia.diagnosis.service.release import Release
from primia.encrypted.bundle import load_bundle
from primia.errors import GateError
from tasks.approval import (
    APPROVED_AT,
    APPROVED_BY,
    APPROVED_DIGEST,
    APPROVED_REASON,
    APPROVED_SIGNATURE,
    CHAMPION,
    PROFILE_TAG,
)
from tasks.paths import ENCRYPTED
from tasks.releases import ChampionReleases
from tasks.tracking import FILES_TAG

pytestmark = pytest.mark.system  # a real store


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def releases(desk, tmp_path: Path, told: list[str]) -> ChampionReleases:
    return ChampionReleases(desk.client, desk.model, tmp_path / "releases", tell=told.append)


def served(releases: ChampionReleases) -> Release:
    release = releases()
    assert release is not None
    return release


def test_the_champion_is_served_with_its_marks_and_a_bundle_that_loads(desk, releases, told) -> None:
    version = desk.register(marks="unfit for patients")
    desk.promote(version)
    release = served(releases)
    assert (release.name, release.version, release.marks) == (desk.model, version, "unfit for patients")
    assert load_bundle(release.folder).specification == desk.bundle.specification
    assert told == [f"Approved: version {version} of {desk.model}, marked unfit for patients."]


def test_a_registry_without_the_model_or_without_a_champion_serves_nothing_and_says_so_once(
    desk, releases, told, tmp_path
) -> None:
    nobody = ChampionReleases(desk.client, "no-such-model", tmp_path / "none", tell=told.append)
    assert nobody() is None
    assert nobody() is None
    assert ["no-such-model has no champion" in sentence for sentence in told] == [True]
    desk.register()
    assert releases() is None
    assert f"{desk.model} has no champion" in told[-1]


def test_another_version_that_is_promoted_is_followed(desk, releases, told) -> None:
    first, second = desk.register(), desk.register()
    desk.promote(first)
    before = served(releases)
    desk.promote(second)
    after = served(releases)
    assert (before.version, after.version) == (first, second)
    assert before.folder != after.folder
    desk.promote(first)
    assert served(releases).folder == before.folder
    assert len(told) == 3


def test_an_alias_that_is_taken_away_ends_the_release_until_it_comes_back(desk, releases, told) -> None:
    version = desk.register()
    desk.promote(version)
    assert served(releases)
    desk.client.delete_registered_model_alias(desk.model, CHAMPION)
    assert releases() is None
    desk.client.set_registered_model_alias(desk.model, CHAMPION, version)
    assert served(releases).version == version
    assert len(told) == 3


@pytest.mark.parametrize(
    "tag", [APPROVED_BY, APPROVED_REASON, APPROVED_AT, APPROVED_DIGEST, APPROVED_SIGNATURE, FILES_TAG, PROFILE_TAG]
)
def test_a_version_that_loses_a_tag_of_its_approval_is_no_longer_served(desk, releases, tag) -> None:
    version = desk.register()
    desk.promote(version)
    assert served(releases)
    desk.client.delete_model_version_tag(desk.model, version, tag)
    assert releases() is None


def test_the_alias_without_an_approval_is_not_served(desk, releases, told) -> None:
    version = desk.register()
    desk.client.set_registered_model_alias(desk.model, CHAMPION, version)
    assert releases() is None
    assert "nobody approved it" in told[-1]


def test_an_approval_of_other_files_is_not_served(desk, releases, told) -> None:
    version = desk.register()
    desk.promote(version)
    desk.tag(version, **{APPROVED_DIGEST: "0" * 64})
    assert releases() is None
    assert "approved with other files" in told[-1]


@pytest.mark.parametrize("spoil", ["changed", "missing"])
def test_files_that_changed_in_the_store_are_not_served_and_leave_nothing_behind(
    desk, releases, told, tmp_path, spoil
) -> None:
    version = desk.register()
    weights = desk.stored(version) / ENCRYPTED / "weights.safetensors"
    if spoil == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    desk.promote(version)
    assert releases() is None
    assert releases() is None
    assert len(told) == 1
    assert "not those that were approved" in told[0]
    assert list((tmp_path / "releases").iterdir()) == []


def test_a_fetched_copy_that_was_changed_is_fetched_anew_at_the_next_start(desk, releases, tmp_path) -> None:
    desk.promote(desk.register())
    folder = served(releases).folder
    whole = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(whole[:-8] + bytes(8))
    restarted = ChampionReleases(desk.client, desk.model, tmp_path / "releases", tell=lambda _: None)
    assert (served(restarted).folder / "weights.safetensors").read_bytes() == whole


def test_files_are_fetched_once_a_version(desk, releases, tmp_path) -> None:
    version = desk.register()
    desk.promote(version)
    first = served(releases)
    shutil.rmtree(desk.stored(version))
    assert releases() == first
    restarted = ChampionReleases(desk.client, desk.model, tmp_path / "releases", tell=lambda _: None)
    assert restarted() == first


def test_files_that_cannot_be_fetched_are_an_error_that_is_tried_again(desk, releases, tmp_path) -> None:
    version = desk.register()
    desk.promote(version)
    stored = desk.stored(version)
    stored.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(GateError, match="cannot be fetched"):
            releases()
    (tmp_path / "away").rename(stored)
    assert served(releases).version == version


def test_a_registry_that_cannot_be_asked_is_an_error_and_not_the_end_of_the_release(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    away: Any = MlflowClient(tracking_uri="http://127.0.0.1:9")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(GateError, match="The registry cannot be asked"):
            ChampionReleases(away, "primia-chest", tmp_path)()
