"""The commands `primia token add`, `list` and `revoke`: who may ask the diagnosis service of this machine."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from primia.diagnosis.service.tokens import Tokens

app = typer.Typer(help="Who may ask the diagnosis service that runs here.")

State = Annotated[
    Path | None, typer.Option(help="Folder of the service; .state/serving, if not named.", show_default=False)
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Whom the token is for.")],
    daily: Annotated[int, typer.Option(help="Questions a day (UTC); 0 allows none, and no keys.")] = 200,
    days: Annotated[float, typer.Option(help="Days until it expires.")] = 90.0,
    state: State = None,
) -> None:
    """Make a token and print it, once: only its hash is kept."""
    issued = _tokens(state).add(name, daily=daily, days=days)
    typer.echo(issued.text)
    typer.echo(f"Token {issued.token.id} for {name}, until {issued.token.expires:%Y-%m-%d}; keep it secret.", err=True)


@app.command("list")
def list_tokens(state: State = None) -> None:
    """Show all tokens, without their secret half."""
    from rich.console import Console
    from rich.table import Table

    table = Table("id", "name", "created", "expires", "a day", "state")
    for token in _tokens(state).all():
        dates = (f"{token.created:%Y-%m-%d}", f"{token.expires:%Y-%m-%d}")
        table.add_row(token.id, token.name, *dates, str(token.daily), token.state())
    Console().print(table)


@app.command()
def revoke(
    ident: Annotated[str, typer.Argument(metavar="ID", help="The 8 digits that `primia token list` shows.")],
    state: State = None,
) -> None:
    """Make a token worthless; a running service notices at once."""
    token = _tokens(state).revoke(ident)
    typer.echo(f"Token {token.id} of {token.name} is revoked.")


def _tokens(state: Path | None) -> "Tokens":
    from primia.diagnosis.service.tokens import TOKENS_FILE, Tokens

    return Tokens((state or Path(os.environ.get("PRIMIA_STATE", ".state")) / "serving") / TOKENS_FILE)
