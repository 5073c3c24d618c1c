"""Serving: the approved champion's bundle, fetched from the registry and checked, behind the encrypted service."""

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.errors import GateError
from primia.files import folder_in_progress
from tasks.environment import state_folder
from tasks.paths import ENCRYPTED
from tasks.ports import require_free
from tasks.promotion import APPROVED_BY, APPROVED_DIGEST, APPROVED_REASON
from tasks.registry import CHAMPION, MARKS_TAG, files_digest
from tasks.tracking import FILES, FILES_TAG, open_store


@task(cache_policy=NO_CACHE)
def approved_bundle(params: Params) -> Path:
    """Download the champion's encrypted bundle into .state.

    Raises:
        GateError: there is no champion, no person approved it, or its files changed since.
    """
    from mlflow.exceptions import MlflowException

    client, model = open_store(), params.registry.name
    try:
        version = client.get_model_version_by_alias(model, CHAMPION)
    except MlflowException as error:
        raise GateError(
            f"{model} has no champion; review a challenger and promote it: "
            'python -m flows.promote --version N --name "..." --reason "...".'
        ) from error
    if not version.tags.get(APPROVED_BY) or not version.tags.get(APPROVED_REASON):
        raise GateError(
            f"Version {version.version} of {model} carries the alias champion, but nobody approved it; "
            "promote it with python -m flows.promote."
        )
    with folder_in_progress(state_folder() / "champion") as folder:
        digest = files_digest(Path(client.download_artifacts(version.run_id, FILES, str(folder))))
        if not digest == version.tags.get(FILES_TAG) == version.tags.get(APPROVED_DIGEST):
            raise GateError(
                f"The files of version {version.version} of {model} are not those that were approved; "
                "find out who changed them, and promote a version anew."
            )
    if MARKS_TAG in version.tags:
        print(f"Version {version.version} of {model} is marked: {version.tags[MARKS_TAG]}.", flush=True)
    return state_folder() / "champion" / FILES


@task(cache_policy=NO_CACHE)
def serve_bundle(root: Path, *, host: str, port: int) -> None:
    """Serve until stopped; runs in the foreground.

    Raises:
        ConfigError: the port is taken.
    """
    import uvicorn

    from primia.encrypted.bundle import load_bundle
    from primia.encrypted.service.app import create_app

    require_free(port, host=host, way_out=f"choose another: --port {port + 1}")
    bundle = load_bundle(root / ENCRYPTED)
    print(
        f"Serving model {bundle.specification.model_digest[:12]} on http://{host}:{port}; stop with Ctrl-C.\n"
        f"Next:  primia keygen --server http://{host}:{port}\n"
        f"       primia diagnose IMAGE --server http://{host}:{port}",
        flush=True,
    )
    uvicorn.run(create_app(bundle), host=host, port=port, log_level="warning")
