"""The commands `primia ledger show` and `primia ledger verify`: what a hospital's owner and an auditor look at."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from primia.errors import PrivacyError

if TYPE_CHECKING:
    from primia.privacy.ledger import Ledger
    from primia.privacy.ledger_line import Entry

app = typer.Typer(help="What patients' privacy has been spent, and whether the record of it is whole.")

Where = Annotated[
    Path | None,
    typer.Argument(help="A ledger, .state/ledgers/<source>.jsonl; without it, all there are.", metavar="PATH"),
]
Source = Annotated[
    str | None, typer.Option(help="Only the ledger of this source: the first digits of its fingerprint.")
]


@app.command()
def show(
    path: Where = None,
    source: Source = None,
    delta: Annotated[
        float | None, typer.Option(help="Count at this δ, instead of the smallest that a line names.")
    ] = None,
) -> None:
    """Print what every run has spent, and all of them together."""
    from rich.console import Console

    for ledger in _ledgers(path, source):
        entries = ledger.entries()
        at = delta or min((entry.delta for entry in entries if entry.delta is not None), default=1e-4)
        Console().print(_table(ledger, entries, delta=at))


@app.command()
def verify(
    path: Where = None,
    source: Source = None,
    transcript: Annotated[
        Path | None,
        typer.Option(help="The last transcript that the hospitals signed: ledger/transcript.json in a run's results."),
    ] = None,
    sites: Annotated[
        Path | None, typer.Option(help="Folder of the hospitals' states; beside the ledgers' folder, if not named.")
    ] = None,
) -> None:
    """Follow the chain of a ledger, and look whether it was rolled back; exit status 1 if something is wrong."""
    from primia.federation.ledger_audit import audit

    for ledger in _ledgers(path, source):
        found = audit(ledger, sites=sites or ledger.path.parent.parent / "sites", transcript=transcript)
        typer.echo(f"{ledger.path}: {found}")


def _ledgers(path: Path | None, source: str | None) -> list["Ledger"]:
    from primia.federation.ledger_audit import remembered
    from primia.privacy.ledger import Ledger

    if path is not None:
        if not path.is_file():
            raise PrivacyError(f"There is no ledger {path}; name one, or none to see all of this checkout.")
        return [Ledger(path)]
    folder = Path(os.environ.get("PRIMIA_STATE", ".state")) / "ledgers"
    # A ledger that is gone, but that a hospital remembers, is to be missed.
    names = {file.stem for file in folder.glob("*.jsonl")} | remembered(folder.parent / "sites")
    found = [Ledger(folder / f"{name}.jsonl") for name in sorted(names) if name.startswith((source or "")[:16])]
    if not found:
        raise PrivacyError(
            f"There is no ledger {f'of source {source} ' if source else ''}in {folder}; name the file, or run this "
            "where the hospital runs."
        )
    return found


def _table(ledger: "Ledger", entries: Sequence["Entry"], *, delta: float) -> object:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from primia.privacy.composition import epsilon_of_run, epsilon_of_source

    # Without lines between them and with short columns whole, nine columns fit a terminal of 80 characters.
    table = Table(title=f"{ledger.path} (δ = {delta:g})", box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    for column in ("run", "purpose", "hospitals", "rounds", "attempts", "steps", "σ", "q", "ε"):
        table.add_column(column, overflow="fold", no_wrap=column not in ("run", "hospitals", "σ", "q"))
    for run in dict.fromkeys(entry.run for entry in entries):
        of_run = [entry for entry in entries if entry.run == run]
        for number, purpose in enumerate(dict.fromkeys(entry.purpose for entry in of_run)):
            lines = [entry for entry in of_run if entry.purpose == purpose]
            hospitals = sorted({entry.hospital for entry in lines})
            attempts = [[(e.round, e.attempt) for e in lines if e.hospital == name] for name in hospitals]
            table.add_row(
                _marked(run or "cut short", synthetic=lines[0].synthetic) if number == 0 else "",
                purpose,
                ", ".join(hospitals),
                str(len({entry.round for entry in lines})),
                str(max(map(len, attempts))),
                str(max(sum(e.release.steps for e in lines if e.hospital == name) for name in hospitals)),
                _range([entry.release.noise_multiplier for entry in lines]),
                _range([entry.release.sampling_rate for entry in lines]),
                f"{epsilon_of_run(entries, run, delta=delta):.3f}" if run and number == 0 else "",
            )
    for synthetic in (False, True):
        alike = [entry for entry in entries if entry.run is None or entry.synthetic == synthetic]
        if any(entry.synthetic == synthetic for entry in alike):
            together = epsilon_of_source(alike, delta=delta)
            label = _marked("all runs together", synthetic=synthetic)
            table.add_row(label, *[""] * 7, f"{together:.3f}", style="bold")
    return table


def _marked(text: str, *, synthetic: bool) -> str:
    return f"{text}, synthetic" if synthetic else text


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
