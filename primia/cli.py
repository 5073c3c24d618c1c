"""The command `primia`: what a hospital or a researcher types, without the pipeline."""

import os
import sys
from pathlib import Path

import typer

from primia import cli_attack, cli_diagnosis, cli_ledger, cli_segment, cli_token, cli_viewer
from primia.errors import PrimiaError

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
app.add_typer(cli_token.app, name="token", no_args_is_help=True)

for command in (
    cli_attack.attack,
    cli_segment.segment,
    cli_diagnosis.keygen,
    cli_diagnosis.enrol,
    cli_diagnosis.diagnose,
    cli_viewer.viewer,
):
    app.command()(command)


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit status 1."""
    try:
        app()
    except PrimiaError as error:
        typer.echo(f"primia: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
