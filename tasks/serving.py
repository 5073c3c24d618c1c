"""Serving: the diagnosis service over the registry's approved champion, in the foreground until it is stopped."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from primia.config import Registry
from primia.errors import ConfigError
from tasks.environment import state_folder

if TYPE_CHECKING:
    from primia.diagnosis.service.settings import ServiceSettings

# Below .state: the service's own files (tokens, identity, keys), the versions fetched from the registry, its log.
FOLDER, APPROVED, EVENTS = "serving", "approved", "events.jsonl"


def serve_champion(
    registry: Registry,
    *,
    host: str,
    port: int,
    certificate: Path | None = None,
    private_key: Path | None = None,
    limits: Sequence[str] = (),
) -> None:
    """Answer on encrypted images with whatever version is the approved champion, until SIGTERM or SIGINT.

    `limits` are NAME=VALUE pairs for `ServiceSettings`. With a certificate and its key (PEM) the service speaks TLS.

    Raises:
        ConfigError: a limit is unknown or out of range.
        EncryptionError: address, port, certificate or state folder cannot be used, or tokens would travel in clear.
    """
    settings = settings_of(limits)
    # MLflow's own retries against a registry on another machine would take minutes; the service asks again anyway.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from primia.diagnosis.service.run import run_service
    from tasks.releases import ChampionReleases
    from tasks.tracking import open_store

    state = state_folder() / FOLDER
    releases = ChampionReleases(open_store(), registry.name, state / APPROVED, tell=_tell)
    address = f"{'https' if certificate else 'http'}://{host}:{port}"

    def introduce(fingerprint: str) -> None:
        _tell(f"The diagnosis service of {registry.name} is at {address}; Ctrl-C stops it, running requests finish.")
        _tell(f"Its fingerprint is {fingerprint}")
        _tell(f"Its log of events is {settings.log}; docs/encrypted.md shows the next steps.")

    run_service(
        releases,
        state=state,
        host=host,
        port=port,
        settings=settings,
        certificate=certificate,
        private_key=private_key,
        on_listening=introduce,
    )


def settings_of(limits: Sequence[str]) -> "ServiceSettings":
    """The service's limits, with NAME=VALUE pairs in place of the defaults.

    Raises:
        ConfigError: names the limit, and those there are.
    """
    from primia.diagnosis.service.settings import ServiceSettings

    given: dict[str, Any] = {"log": str(state_folder() / FOLDER / EVENTS)}
    for pair in limits:
        name, _, value = pair.partition("=")
        given[name] = value
    try:
        return ServiceSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if name not in ServiceSettings.model_fields:
            known = ", ".join(sorted(ServiceSettings.model_fields))
            raise ConfigError(f"{name} is no limit of the service; --limit takes {known}.") from None
        raise ConfigError(f"--limit {name}={given[name]} cannot be used ({first['msg']}).") from None


def _tell(sentence: str) -> None:
    print(sentence, flush=True)
