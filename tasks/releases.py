"""Where the diagnosis service gets its model: the approved champion of the registry, and nothing else."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from primia.diagnosis.service.release import Release
from primia.errors import GateError
from primia.files import folder_in_progress
from tasks.approval import APPROVED_SIGNATURE, CHAMPION, MARKS_TAG, files_digest
from tasks.paths import ENCRYPTED
from tasks.signed_approval import approval_missing
from tasks.tracking import FILES, FILES_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


class ChampionReleases:
    """A call gives the release to answer with, or None: no champion, not approved, or files that changed.

    Every call asks the registry for the alias and the tags, which takes milliseconds. A version's files are fetched
    once, and their digest is computed again whenever the version is taken up. Why there is no release, or a new one,
    is told once.

    Args:
        client: of the registry.
        model: name of the registered model.
        folder: receives the files of each version taken up, in a folder of its own.
        tell: receives one sentence per change.
    """

    def __init__(
        self, client: "MlflowClient", model: str, folder: Path, *, tell: Callable[[str], None] = print
    ) -> None:
        self._client, self._model, self._folder, self._tell = client, model, folder, tell
        self._looked_at: tuple[str | None, ...] = ()
        self._result: tuple[Release | None, str] = (None, "")
        self._told = ""

    def __call__(self) -> Release | None:
        """Ask the registry.

        Raises:
            GateError: it cannot be asked, or a version's files cannot be had.
        """
        release, sentence = self._look()
        if sentence != self._told:
            self._told = sentence
            self._tell(sentence)
        return release

    def _look(self) -> tuple[Release | None, str]:
        version = self._champion()
        if version is None:
            return None, (
                f"{self._model} has no champion, so nothing is answered; review a challenger and promote it: "
                'python -m flows.promote --version N --name "..." --reason "...".'
            )
        missing = approval_missing(version)
        if missing:
            return None, missing
        # A changed file stays refused without fetching it every few seconds; a new approval looks again. The signature
        # stands for all that was approved, so none of it (marks, files) can change while what was taken up is kept.
        look_at = (str(version.version), version.tags[APPROVED_SIGNATURE])
        if look_at != self._looked_at:
            self._result = self._taken_up(version)
            self._looked_at = look_at
        return self._result

    def _champion(self) -> "ModelVersion | None":
        from mlflow.exceptions import MlflowException

        try:
            return self._client.get_model_version_by_alias(self._model, CHAMPION)
        except MlflowException as error:
            # The codes for no such model or version, and for no such alias.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise GateError(
                f"The registry cannot be asked for the champion of {self._model} ({error.error_code}); "
                "see whether its database can be reached and is not damaged."
            ) from error

    def _taken_up(self, version: "ModelVersion") -> tuple[Release | None, str]:
        digest = version.tags[FILES_TAG]
        target = self._folder / f"{version.version}-{digest}"
        if not _holds(target, digest) and not self._fetched(version, target, digest):
            return None, (
                f"The files of version {version.version} of {self._model} are not those that were approved; "
                "find out who changed them, and promote a version anew."
            )
        marks = version.tags.get(MARKS_TAG)
        return (
            Release(name=self._model, version=str(version.version), marks=marks, folder=target / FILES / ENCRYPTED),
            f"Approved: version {version.version} of {self._model}{f', marked {marks}' if marks else ''}.",
        )

    def _fetched(self, version: "ModelVersion", target: Path, digest: str) -> bool:
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(_ChangedError), folder_in_progress(target) as temporary:
            try:
                self._client.download_artifacts(version.run_id, FILES, str(temporary))
            except (MlflowException, OSError) as error:
                raise GateError(
                    f"The files of version {version.version} of {self._model} cannot be fetched "
                    f"({type(error).__name__}); see whether the artifact store can be reached."
                ) from error
            if not _holds(temporary, digest):
                raise _ChangedError
            return True
        return False


class _ChangedError(Exception):
    """Leaves no folder behind when the files are not the approved ones."""


def _holds(folder: Path, digest: str) -> bool:
    """Whether a folder that was fetched holds the files of a digest, all of them."""
    try:
        return files_digest(folder / FILES) == digest
    except OSError:
        return False
