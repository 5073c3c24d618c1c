"""The commands `primia keygen`, `enrol` and `diagnose`: what a hospital types to have an image diagnosed."""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.errors import EncryptionError

if TYPE_CHECKING:
    from primia.diagnosis.client.client import Client
    from primia.diagnosis.client.diagnosis import Diagnosis

DISCLAIMER = "Research software, not a medical device: no diagnosis may rest on this answer."
DEFAULT_KEYS = Path(".state/keys")
STEPS = {
    "preprocess": "prepare the image here",
    "encrypt": "encrypt it here",
    "enrol": "upload the evaluation keys, once",
    "send": "send the question, receive the answer",
    "compute": "compute on it there, blindly",
    "decrypt": "decrypt the answer here",
}

NewServer = Annotated[
    str, typer.Option(help="Address of the diagnosis server: https, or http on this machine, as http://127.0.0.1:8443.")
]
OtherServer = Annotated[str | None, typer.Option(help="Another address of the server that the keys were made for.")]
Keys = Annotated[Path, typer.Option(help="Folder of the keys; the secret key never leaves it.")]
TokenFile = Annotated[
    Path | None,
    typer.Option(help="File with the token for the server; without it, PRIMIA_TOKEN, or a question.", metavar="FILE"),
]
NewTokenFile = Annotated[
    Path | None,
    typer.Option(help="File with another token than keygen was given; without it, PRIMIA_TOKEN.", metavar="FILE"),
]
Model = Annotated[str | None, typer.Option(help="Name of the model; without it, that of keygen, or primia-chest.")]


def keygen(
    server: NewServer,
    keys: Keys = DEFAULT_KEYS,
    token_file: TokenFile = None,
    model: Model = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="The server's public key, told by its operator; else the one seen now is kept.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) to trust instead of the system's.", metavar="FILE")
    ] = None,
    passphrase: Annotated[
        bool,
        typer.Option("--passphrase", help="Ask for a passphrase to keep the secret key under (PRIMIA_PASSPHRASE)."),
    ] = False,
) -> None:
    """Make a secret key and the evaluation keys that fit the server's model."""
    from primia.diagnosis.client.client import Client

    token = _given_token(token_file) or _asked(
        "Token", instead="name a file that holds it (--token-file), or set PRIMIA_TOKEN"
    )
    phrase = os.environ.get("PRIMIA_PASSPHRASE")
    if passphrase and phrase is None:
        phrase = _asked("Passphrase", instead="set PRIMIA_PASSPHRASE", twice=True)
    with _progress() as say:
        client = Client.keygen(
            keys,
            server,
            token=token,
            passphrase=phrase,
            fingerprint=fingerprint,
            ca=ca,
            model=model,
            on_step=lambda step, _: say({"ask": "asking the server", "generate": "making keys"}.get(step, step)),
        )
    typer.echo(f"Keys are in {keys}; the evaluation keys ({client.key_bytes / 1e6:.0f} MB) go to the server once.")
    if fingerprint is None:
        typer.echo(
            f"The server signs as {client.fingerprint} and is trusted from now on; ask its operator whether that is "
            "its fingerprint.",
            err=True,
        )


def enrol(keys: Keys = DEFAULT_KEYS, server: OtherServer = None, token_file: NewTokenFile = None) -> None:
    """Upload the evaluation keys now; a token given here is kept in the folder of the keys."""
    token = _given_token(token_file)
    client = _opened(keys, server=server, token=token)
    with _progress() as say:
        say("uploading the evaluation keys")
        name = client.enrol()
    if token is not None:
        client.keep_token()
    typer.echo(f"The server keeps the evaluation keys as {name}.")


def diagnose(
    image: Annotated[Path, typer.Argument(help="A grey PNG or JPEG image, or an uncompressed DICOM radiograph.")],
    keys: Keys = DEFAULT_KEYS,
    server: OtherServer = None,
    token_file: NewTokenFile = None,
    model: Model = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show seconds and bytes of each step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
) -> None:
    """Encrypt an image here, have it diagnosed there, decrypt the answer here."""
    client = _opened(keys, server=server, token=_given_token(token_file))
    with _progress() as say:
        diagnosis = client.diagnose(image, model=model, on_step=lambda step, _: say(STEPS[step]))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(diagnosis) | {"disclaimer": DISCLAIMER}, indent=2))
    else:
        width = max(map(len, diagnosis.probabilities))
        for name, probability in diagnosis.probabilities.items():
            typer.echo(f"{_printable(name):<{width}} {probability:7.1%}")
    if explain:
        _explain(diagnosis)
    typer.echo(f"{DISCLAIMER} {_marks(diagnosis)}", err=True)


def _marks(diagnosis: "Diagnosis") -> str:
    said = f"It comes from {diagnosis.model}, version {_printable(diagnosis.version)}"
    return f"{said}, marked: {_printable(diagnosis.marks)}." if diagnosis.marks else f"{said}."


def _printable(text: str) -> str:
    """What a server sent, without what would steer the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _explain(diagnosis: "Diagnosis") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("step", "what happens")
    table.add_column("seconds", justify="right")
    table.add_column("kB it gives", justify="right")
    for step, seconds in diagnosis.seconds.items():
        table.add_row(step, STEPS[step], f"{seconds:.3f}", f"{diagnosis.bytes[step] / 1e3:,.1f}")
    table.add_section()
    table.add_row("all", "", f"{sum(diagnosis.seconds.values()):.3f}", "")
    Console(stderr=True).print(table)


def _opened(keys: Path, *, server: str | None, token: str | None) -> "Client":
    from primia.diagnosis.client.client import Client
    from primia.diagnosis.client.keyring import needs_passphrase

    phrase = None
    if needs_passphrase(keys):
        phrase = os.environ.get("PRIMIA_PASSPHRASE") or _asked("Passphrase", instead="set PRIMIA_PASSPHRASE")
    return Client(keys, phrase, server=server, token=token)


def _given_token(path: Path | None) -> str | None:
    """The token of a file or of the environment: as an argument every user of the machine could read it."""
    if path is None:
        return os.environ.get("PRIMIA_TOKEN")
    from primia.diagnosis.client.keyring import read_token

    return read_token(path)


def _asked(what: str, *, instead: str, twice: bool = False) -> str:
    if not sys.stdin.isatty():
        raise EncryptionError(f"{what} needed, and there is no terminal to ask at; {instead}.")
    answer: str = typer.prompt(what, hide_input=True, confirmation_prompt=twice, err=True)
    return answer


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """One changing line on a terminal's standard error, nothing elsewhere."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update
