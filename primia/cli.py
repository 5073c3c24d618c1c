"""The command `primia`: what a hospital types to have an image diagnosed, or to look at what privacy it spent."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from primia import cli_ledger
from primia.errors import PrimiaError

DISCLAIMER = "Research software, not a medical device: no diagnosis may rest on this answer."
DEFAULT_KEYS = Path(".state/keys")

# MONAI imports what it finds installed, MLflow and matplotlib among it: at a clinic these neither call home nor write
# into a home folder.
for name, value in (
    ("DO_NOT_TRACK", "1"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("MPLCONFIGDIR", str(Path(".state/cache/matplotlib").resolve())),
):
    os.environ.setdefault(name, value)

app = typer.Typer(
    help="Private federated learning and encrypted diagnosis on medical images.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # a local variable may hold an image
)
app.add_typer(cli_ledger.app, name="ledger", no_args_is_help=True)

Server = Annotated[str, typer.Option(help="Address of the diagnosis server, such as http://127.0.0.1:8443.")]
Keys = Annotated[Path, typer.Option(help="Folder of the keys; the secret key never leaves it.")]


@app.command()
def keygen(server: Server, keys: Keys = DEFAULT_KEYS) -> None:
    """Make a secret key and the evaluation keys that fit the server's model."""
    from primia.encrypted.client.client import Client

    client = Client.keygen(keys, server)
    typer.echo(f"Keys are in {keys}; the evaluation keys ({client.key_bytes / 1e6:.0f} MB) go to the server once.")


@app.command()
def diagnose(
    image: Annotated[Path, typer.Argument(help="A grey PNG or JPEG image.")],
    server: Server,
    keys: Keys = DEFAULT_KEYS,
    explain: Annotated[bool, typer.Option(help="Show seconds and bytes of each step.")] = False,
) -> None:
    """Encrypt an image here, have it diagnosed there, decrypt the answer here."""
    from primia.encrypted.client.client import Client

    diagnosis = Client(keys).diagnose(image, server)
    for name, probability in diagnosis.probabilities.items():
        typer.echo(f"{name:<12} {probability:7.1%}")
    if explain:
        for step, seconds in diagnosis.seconds.items():
            typer.echo(f"{step:<12} {seconds:7.2f} s", err=True)
        for step, size in diagnosis.bytes.items():
            typer.echo(f"{step:<12} {size / 1e6:7.2f} MB", err=True)
    typer.echo(DISCLAIMER, err=True)


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit status 1."""
    try:
        app()
    except PrimiaError as error:
        typer.echo(f"primia: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
