"""Who can write to the registry but has not the approval key gets nothing served."""

import stat
from pathlib import Path

import pytest

from primia.errors import GateError
from tasks.approval import (
    APPROVED_AT,
    APPROVED_BY,
    APPROVED_DIGEST,
    APPROVED_REASON,
    APPROVED_SIGNATURE,
    CHAMPION,
    MARKS_TAG,
    PROFILE_TAG,
)
from tasks.environment import state_folder
from tasks.releases import ChampionReleases
from tasks.signed_approval import APPROVAL_KEY, approval_missing, approve
from tasks.tracking import FILES_TAG

pytestmark = pytest.mark.system  # a real store


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def releases(desk, tmp_path: Path, told: list[str]) -> ChampionReleases:
    return ChampionReleases(desk.client, desk.model, tmp_path / "releases", tell=told.append)


@pytest.fixture
def own_state(store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder without a key, so that a test may spoil the key that it makes."""
    monkeypatch.setenv("PRIMIA_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_first_promotion_makes_a_key_that_only_its_owner_can_read(desk, own_state, releases) -> None:
    first, second = desk.register(), desk.register()
    desk.promote(first)
    key = own_state / APPROVAL_KEY
    made = key.read_bytes()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    desk.promote(second)
    assert key.read_bytes() == made
    assert releases().version == second


def test_tags_written_by_hand_approve_nothing(desk, releases, told) -> None:
    version = desk.register()
    digest = desk.client.get_model_version(desk.model, version).tags[FILES_TAG]
    by_hand = {
        APPROVED_BY: "A. Reviewer",
        APPROVED_REASON: "a test",
        APPROVED_DIGEST: digest,
        APPROVED_AT: "2026-01-01T00:00:00Z",
    }
    desk.tag(version, **by_hand)
    desk.client.set_registered_model_alias(desk.model, CHAMPION, version)
    assert releases() is None
    assert "without a signature" in told[-1]
    assert f"promote it again: python -m flows.promote --version {version} " in told[-1]
    for nonsense in ("yes", "00" * 64, "ü"):
        desk.tag(version, **{APPROVED_SIGNATURE: nonsense})
        assert releases() is None
    desk.promote(version)
    assert releases().version == version


def test_an_approval_signed_with_another_key_is_not_served(desk, releases, told, tmp_path) -> None:
    version = desk.register()
    desk.promote(desk.register())  # the key of here exists
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIMIA_STATE", str(tmp_path / "stranger"))
        desk.promote(version)
        assert releases().version == version  # the stranger's own service would take it
    assert releases() is None
    assert "signed with another key" in told[-1]


def test_an_approval_copied_from_another_version_is_not_served(desk, releases) -> None:
    marked = desk.register()
    desk.promote(marked)
    first = desk.client.get_model_version(desk.model, marked)
    copy = desk.client.create_model_version(desk.model, first.source, first.run_id, tags=dict(first.tags)).version
    desk.client.set_registered_model_alias(desk.model, CHAMPION, str(copy))
    assert releases() is None


@pytest.mark.parametrize(
    "changed",
    [
        {MARKS_TAG: "fit for everything"},
        {PROFILE_TAG: "clinical"},
        {APPROVED_BY: "Somebody Else"},
        {APPROVED_REASON: "another reason"},
        {APPROVED_AT: "2126-01-01T00:00:00Z"},
        {FILES_TAG: "0" * 64, APPROVED_DIGEST: "0" * 64},
    ],
    ids=lambda changed: " ".join(changed),
)
def test_what_changes_after_the_approval_ends_it(desk, releases, told, changed) -> None:
    version = desk.register(marks="unfit for patients")
    desk.promote(version)
    assert releases().version == version
    desk.tag(version, **changed)
    assert releases() is None
    assert "is not what was approved" in told[-1]
    assert f"promote it again: python -m flows.promote --version {version} " in told[-1]


def test_marks_added_to_the_champion_end_its_approval_and_are_served_when_it_is_promoted_again(
    desk, releases, told
) -> None:
    version = desk.register()
    desk.promote(version)
    assert releases().marks is None
    desk.tag(version, **{MARKS_TAG: "under review"})
    assert releases() is None
    desk.promote(version)
    assert releases().marks == "under review"
    desk.client.delete_model_version_tag(desk.model, version, MARKS_TAG)
    assert releases() is None
    desk.promote(version)
    assert releases().marks is None


def test_a_version_that_changed_while_it_was_promoted_gets_no_alias(desk, releases) -> None:
    version = desk.register(marks="unfit for patients")
    looked_at = desk.client.get_model_version(desk.model, version)
    desk.client.delete_model_version_tag(desk.model, version, MARKS_TAG)
    with pytest.raises(GateError, match="was changed while it was promoted"):
        approve(desk.client, looked_at, name="A. Reviewer", reason="a test")
    assert desk.client.get_model_version(desk.model, version).aliases == []
    assert releases() is None


def test_without_the_key_nothing_is_approved_and_the_service_makes_none(desk, own_state, releases, told) -> None:
    version = desk.register()
    desk.promote(version)
    key = own_state / APPROVAL_KEY
    key.rename(own_state / "away")
    assert releases() is None
    assert "approval.pem is missing" in told[-1]
    assert not key.exists()
    (own_state / "away").rename(key)
    assert releases().version == version


def test_a_key_that_others_can_read_or_that_is_damaged_approves_nothing(desk, own_state, releases, told) -> None:
    version = desk.register()
    desk.promote(version)
    key = state_folder() / APPROVAL_KEY
    key.chmod(0o644)
    assert releases() is None
    assert "chmod 600" in told[-1]
    with pytest.raises(GateError, match="chmod 600"):
        desk.promote(version)
    key.chmod(0o600)
    assert approval_missing(desk.client.get_model_version(desk.model, version)) is None
    key.write_bytes(b"nothing")
    assert "not a private key" in str(approval_missing(desk.client.get_model_version(desk.model, version)))
