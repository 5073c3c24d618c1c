"""The names under which the registry keeps an approval, and the digest of the files that it is for."""

import hashlib
from pathlib import Path

from primia.files import sha256_of_file, sha256_of_folder
from tasks.paths import RAW, SUBSTANCE

CHALLENGER, CHAMPION = "challenger", "champion"
PROFILE_TAG, MARKS_TAG = "primia.profile", "primia.marks"
APPROVED_BY, APPROVED_REASON, APPROVED_AT = "approved.by", "approved.reason", "approved.at"
APPROVED_DIGEST, APPROVED_SIGNATURE = "approved.files_digest", "approved.signature"


def files_digest(root: Path) -> str:
    """SHA-256 over models, results and parameters: everything a gate may ask about; the report follows from them."""
    digest = hashlib.sha256()
    for folder in SUBSTANCE:
        digest.update(folder.as_posix().encode() + bytes.fromhex(sha256_of_folder(root / folder)))
    for path in (RAW / "source.json", Path("params.yaml")):
        digest.update(path.as_posix().encode() + bytes.fromhex(sha256_of_file(root / path)))
    return digest.hexdigest()
