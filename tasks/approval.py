"""What makes a version the approved champion: an alias, the tags of a person's approval, a digest of its files."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from primia.files import sha256_of_file, sha256_of_folder
from tasks.paths import RAW, SUBSTANCE
from tasks.tracking import FILES_TAG

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
PROFILE_TAG, MARKS_TAG = "primia.profile", "primia.marks"
APPROVED_BY, APPROVED_REASON, APPROVED_AT = "approved.by", "approved.reason", "approved.at"
APPROVED_DIGEST = "approved.files_digest"


def files_digest(root: Path) -> str:
    """SHA-256 over models, results and parameters: everything a gate may ask about; the report follows from them."""
    digest = hashlib.sha256()
    for folder in SUBSTANCE:
        digest.update(folder.as_posix().encode() + bytes.fromhex(sha256_of_folder(root / folder)))
    for path in (RAW / "source.json", Path("params.yaml")):
        digest.update(path.as_posix().encode() + bytes.fromhex(sha256_of_file(root / path)))
    return digest.hexdigest()


def approval_missing(version: "ModelVersion") -> str | None:
    """Why the tags of a version are no approval, as a sentence; None if they are one."""
    what = f"Version {version.version} of {version.name}"
    if not version.tags.get(APPROVED_BY) or not version.tags.get(APPROVED_REASON):
        return (
            f"{what} carries the alias champion, but nobody approved it; promote it: "
            f'python -m flows.promote --version {version.version} --name "..." --reason "...".'
        )
    registered = version.tags.get(FILES_TAG)
    if not registered or registered != version.tags.get(APPROVED_DIGEST):
        return (
            f"{what} was approved with other files than those it is registered with; "
            "find out who changed its tags, and promote a version anew."
        )
    return None
