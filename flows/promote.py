"""promote: a person, with a name and a reason, makes a version the champion; the gates are checked again."""

from typing import Annotated

import typer
from prefect import flow

from tasks.promotion import promote_version
from tasks.stage import complain_of, parameters, run_flow


@flow(name="promote")
def promote(version: int, name: str, reason: str) -> None:
    """Re-check the gates from the version's files, then move champion."""
    promote_version(parameters(), version=version, name=name, reason=reason)


def main(
    version: Annotated[int, typer.Option(help="Version of the registered model.")],
    name: Annotated[str, typer.Option(help="Your name; it is kept with the version.")],
    reason: Annotated[str, typer.Option(help="Why this version may be used; kept with the version.")],
) -> None:
    """Promote a reviewed version to champion."""
    with complain_of():
        run_flow(promote, version=version, name=name, reason=reason)


if __name__ == "__main__":
    typer.run(main)
