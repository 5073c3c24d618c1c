"""Where state lives, and the settings that keep Prefect, MLflow and matplotlib inside the checkout."""

import os
from pathlib import Path

from dotenv import dotenv_values

_EXPERIMENTS = (".dvc", "tmp", "exps")


def checkout() -> Path:
    """The folder that holds dvc.yaml, from which every command is run."""
    return Path.cwd()


def state_folder() -> Path:
    """One absolute folder for ledgers, keys, checkpoints, registry; queued experiments share it with their checkout."""
    given = os.environ.get("PRIMIA_STATE")
    if given:
        return Path(given).resolve()
    parts = checkout().resolve().parts
    # `dvc exp run --queue` works in <checkout>/.dvc/tmp/exps/<name>: its state is the checkout's.
    for start in range(len(parts) - len(_EXPERIMENTS)):
        if parts[start : start + len(_EXPERIMENTS)] == _EXPERIMENTS:
            return Path(*parts[:start]) / ".state"
    return checkout().resolve() / ".state"


def prepare() -> None:
    """Set defaults for the environment of this process and its children; what the user has set stays."""
    state = state_folder()
    (state / "prefect").mkdir(parents=True, exist_ok=True)
    defaults = {
        "PREFECT_HOME": str(state / "prefect"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "MLFLOW_TRACKING_URI": f"sqlite:///{state / 'mlflow' / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MPLCONFIGDIR": str(state / "cache" / "matplotlib"),
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(state / "dvc-site"),
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    _forget_a_server_that_is_gone()


def _forget_a_server_that_is_gone() -> None:
    """`make up` leaves its address in .env; if that server no longer answers, work with a temporary one."""
    import httpx

    if "PREFECT_API_URL" in os.environ:
        return
    address = dotenv_values(checkout() / ".env").get("PREFECT_API_URL")
    if not address:
        return
    try:
        httpx.get(f"{address}/health", timeout=2.0).raise_for_status()
    except httpx.HTTPError:
        print(f"The Prefect server at {address} does not answer; going on with a temporary one (make up starts it).")
        os.environ["PREFECT_API_URL"] = ""


def main() -> None:
    """Part of make setup: create the MLflow store once, since processes that race to create it crash."""
    prepare()
    from tasks.tracking import open_store

    open_store()


if __name__ == "__main__":
    main()
