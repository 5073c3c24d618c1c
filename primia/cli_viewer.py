"""The command `primia viewer`: the clinician's page on this machine."""

import os
from typing import Annotated

import typer

from primia.cli_diagnosis import DEFAULT_KEYS, Keys


def viewer(
    keys: Keys = DEFAULT_KEYS,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 for any free one.")] = 8600,
    host: Annotated[str, typer.Option(help="127.0.0.1: the page is served to this machine only.")] = "127.0.0.1",
) -> None:
    """Serve the clinician's page: choose an image, diagnose it encrypted, see the answer."""
    from primia.diagnosis.client.keyring import needs_passphrase
    from primia.diagnosis.viewer.app import run_viewer

    passphrase = None
    if needs_passphrase(keys):
        passphrase = os.environ.get("PRIMIA_PASSPHRASE") or typer.prompt("Passphrase", hide_input=True, err=True)
    run_viewer(keys, passphrase=passphrase, host=host, port=port, say=_tell)


def _tell(address: str) -> None:
    typer.echo(f"Open {address}")
    typer.echo("Whoever knows this address can use the keys until the viewer ends (Ctrl+C).", err=True)
