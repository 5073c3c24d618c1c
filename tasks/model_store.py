"""Models of the registry as folders, for commands that take a model wherever it is."""

import re
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from primia.errors import ConfigError, DataError
from primia.files import folder_in_progress, read_json
from tasks.approval import MARKS_TAG
from tasks.environment import prepare, state_folder
from tasks.paths import FEDERATED
from tasks.tracking import FILES, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

DIGEST_TAG = "primia.model_digest"
_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[A-Za-z0-9_-]+))")


def fetch(address: str) -> Path:
    """The folder of a registered model; what was fetched before is not fetched again.

    Says on standard error which version it is and what it is marked with.

    Args:
        address: models:/NAME/VERSION or models:/NAME@ALIAS.

    Raises:
        ConfigError: it is no such address.
        DataError: there is no such version, or its files are not those that were registered.
    """
    prepare()  # a command may be given in any shell; before mlflow, which reads its settings when it is imported
    from mlflow.exceptions import MlflowException

    said = _ADDRESS.fullmatch(address)
    if said is None:
        raise ConfigError(
            f"{address} is no model of the registry; write models:/NAME@champion or models:/NAME/VERSION."
        )
    client = open_store()
    try:
        if said["alias"]:
            version = client.get_model_version_by_alias(said["name"], said["alias"])
        else:
            version = client.get_model_version(said["name"], said["version"])
        digest = version.tags[DIGEST_TAG]
        target = state_folder() / "fetched-models" / digest
        if not target.exists():
            _download(client, version.run_id, target, digest=digest, address=address)
    except (MlflowException, KeyError) as error:
        way_out = "see versions in MLflow"
        if said["alias"]:
            way_out = f"promote a version (python -m flows.promote), or name one, as in models:/{said['name']}/1"
        raise DataError(f"The registry has no usable model {address} ({type(error).__name__}); {way_out}.") from error
    marks = version.tags.get(MARKS_TAG)
    print(f"Model: version {version.version} of {said['name']}{f', marked {marks}' if marks else ''}.", file=sys.stderr)
    return target


def _download(client: "MlflowClient", run: str, target: Path, *, digest: str, address: str) -> None:
    with TemporaryDirectory() as scratch, folder_in_progress(target) as folder:
        stored = Path(client.download_artifacts(run, f"{FILES}/{FEDERATED.as_posix()}", scratch))
        shutil.copytree(stored, folder, dirs_exist_ok=True)
        if read_json(folder / "model.json")["digest"] != digest:
            raise DataError(f"The files of {address} are not those that were registered; find out who changed them.")
