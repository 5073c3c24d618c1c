"""Promotion: the decision of a person, with a name and a reason, after the gates were checked once more."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params, load_params
from primia.errors import GateError
from primia.review.gates import load_profile
from tasks.approval import MARKS_TAG, PROFILE_TAG, files_digest
from tasks.paths import GATES
from tasks.registry import gates_of
from tasks.signed_approval import approve
from tasks.tracking import FILES, FILES_TAG, open_store

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


# Never retried: a decision is taken once.
@task(cache_policy=NO_CACHE, retries=0)
def promote_version(params: Params, *, version: int, name: str, reason: str) -> None:
    """Move champion to a version whose own files pass the gates of its profile.

    Raises:
        GateError: no name or reason, no such version, changed files, a gate that does not hold, an unusable key.
    """
    from mlflow.exceptions import MlflowException

    if not name.strip() or not reason.strip():
        raise GateError("A promotion needs the name of a person and a reason; give --name and --reason.")
    client, model = open_store(), params.registry.name
    try:
        found = client.get_model_version(model, str(version))
    except MlflowException as error:
        raise GateError(f"{model} has no version {version}; the registry shows those there are.") from error
    with tempfile.TemporaryDirectory() as folder:
        root = Path(client.download_artifacts(found.run_id, FILES, folder))
        if files_digest(root) != found.tags.get(FILES_TAG):
            raise GateError(
                f"The files of version {version} are not those that were registered; "
                "find out who changed them, and register the model anew."
            )
        profile, task = _profile_of(found, root), load_params(root / "params.yaml").task
        missed = [result.reason for result in gates_of(root, profile) if not result.passed]
    if missed:
        raise GateError(f"Version {version} of {model} does not pass its gates: {'; '.join(missed)}.")
    approve(client, found, name=name.strip(), reason=reason.strip())
    marks = f" It is marked: {found.tags[MARKS_TAG]}." if MARKS_TAG in found.tags else ""
    print(f"Version {version} of {model} is the champion (profile {profile}), approved by {name.strip()}.{marks}")
    if task == "classification":
        print("A running diagnosis service answers with it within seconds; clients ask for it again by themselves.")
    else:
        print("It marks structures: the diagnosis service, which answers encrypted images, does not take it up.")


def _profile_of(version: "ModelVersion", root: Path) -> str:
    """The profile that a version was registered for, by its own params.yaml: tags are anybody's to write."""
    profile = load_params(root / "params.yaml").registry.profile
    marks = load_profile(GATES, profile).marks
    if version.tags.get(PROFILE_TAG) != profile or not version.tags.get(MARKS_TAG, "").startswith(marks or ""):
        raise GateError(
            f"Version {version.version} of {version.name} must have the tag {PROFILE_TAG} {profile}"
            f"{f' and a tag {MARKS_TAG} that begins with {marks}' if marks else ''}, as it was registered; "
            "find out who changed its tags, and register the model anew."
        )
    return profile
