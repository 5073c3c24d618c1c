"""serve: answer on encrypted images with the approved champion, and with nothing else.

Not a Prefect flow run: a service lives for months and must outlive the Prefect server.
"""

from pathlib import Path
from typing import Annotated

import typer

from tasks.serving import serve_champion
from tasks.stage import complain_of, parameters


def main(
    host: Annotated[str, typer.Option(help="Address to listen on; other than this machine's own needs TLS.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8443,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain (PEM).")] = None,
    private_key: Annotated[Path | None, typer.Option(help="Private key of the certificate (PEM).")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that evaluate; one for each core unless set.")] = None,
    limit: Annotated[list[str] | None, typer.Option(help="NAME=VALUE, as often as needed: docs/encrypted.md.")] = None,
) -> None:
    """Serve the approved champion; another version that is promoted is followed without a restart."""
    limits = [*(limit or []), *([f"workers={workers}"] if workers is not None else [])]
    with complain_of():
        serve_champion(
            parameters().registry, host=host, port=port, certificate=certificate, private_key=private_key, limits=limits
        )


if __name__ == "__main__":
    typer.run(main)
