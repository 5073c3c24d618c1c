"""A person's approval of a version, signed: without the key, writing to the registry approves nothing."""

import json
import time
from typing import TYPE_CHECKING

from primia.errors import FederationError, GateError
from primia.secagg.keys import Identity, load_or_create_identity, verify
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
from tasks.tracking import FILES_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

APPROVAL_KEY = "approval.pem"  # below .state, Ed25519, mode 0600
_KIND = b"primia approval 1\n"  # no signature of another purpose passes for an approval
_SIGNED_TAGS = (FILES_TAG, APPROVED_BY, APPROVED_REASON, APPROVED_AT, MARKS_TAG, PROFILE_TAG)


def approve(client: "MlflowClient", version: "ModelVersion", *, name: str, reason: str) -> None:
    """Write an approval of a version as it was looked at, signed, and move champion to it.

    The key is made the first time. A version that was changed since it was looked at gets no alias.

    Raises:
        GateError: the key cannot be used, or the registry does not hold what was signed.
    """
    model, number = version.name, str(version.version)
    approved = {
        APPROVED_BY: name,
        APPROVED_DIGEST: version.tags[FILES_TAG],
        APPROVED_REASON: reason,
        APPROVED_AT: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    signature = _key().sign(_statement(model, number, {**version.tags, **approved}))
    for key, value in {**approved, APPROVED_SIGNATURE: signature.hex()}.items():
        client.set_model_version_tag(model, number, key, value)
    if approval_missing(client.get_model_version(model, number)):
        raise GateError(
            f"Version {number} of {model} was changed while it was promoted, or the registry did not keep the approval "
            "as it was written; look at its tags, and promote it again."
        )
    client.set_registered_model_alias(model, CHAMPION, number)


def approval_missing(version: "ModelVersion") -> str | None:
    """Why the tags of a version are no approval, as a sentence; None if they are one, signed with the key of here."""
    what = f"Version {version.version} of {version.name}"
    command = f'python -m flows.promote --version {version.version} --name "..." --reason "..."'
    if not version.tags.get(APPROVED_BY) or not version.tags.get(APPROVED_REASON):
        return f"{what} carries the alias champion, but nobody approved it; promote it: {command}."
    registered = version.tags.get(FILES_TAG)
    if not registered or registered != version.tags.get(APPROVED_DIGEST):
        return (
            f"{what} was approved with other files than those it is registered with; "
            "find out who changed its tags, and promote a version anew."
        )
    signature = version.tags.get(APPROVED_SIGNATURE)
    if not signature:
        return (
            f"{what} has an approval without a signature, from before approvals were signed or written by hand; "
            f"promote it again: {command}."
        )
    if not (state_folder() / APPROVAL_KEY).exists():
        return (
            f"{what} has an approval that cannot be checked, because {state_folder() / APPROVAL_KEY} is missing; "
            f"restore it, or promote the version again: {command}."
        )
    try:
        public = _key().public
    except GateError as error:
        return str(error)
    if not _is_signed(public, signature, _statement(version.name, str(version.version), version.tags)):
        return (
            f"{what} is not what was approved: its marks, profile, files, name, reason or time changed since, or the "
            f"approval is signed with another key; look at its tags, and promote it again: {command}."
        )
    return None


def _key() -> Identity:
    path = state_folder() / APPROVAL_KEY
    try:
        return load_or_create_identity(path)
    except FederationError as error:
        raise GateError(str(error)) from error
    except OSError as error:
        raise GateError(
            f"{path} cannot be used ({type(error).__name__}); promote and serve as the user who owns it."
        ) from error


def _statement(model: str, version: str, tags: dict[str, str]) -> bytes:
    """What is signed: the same bytes for the same content; a tag that is not there is null."""
    content = {"model": model, "version": version, **{tag: tags.get(tag) for tag in _SIGNED_TAGS}}
    return _KIND + json.dumps(content, sort_keys=True).encode()


def _is_signed(public: bytes, signature: str, statement: bytes) -> bool:
    try:
        return verify(public, bytes.fromhex(signature), statement)
    except ValueError:  # no hexadecimal
        return False
