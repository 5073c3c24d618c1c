"""serve: answer on encrypted images with the approved champion, and with nothing else."""

from typing import Annotated

import typer
from prefect import flow

from tasks.serving import approved_bundle, serve_bundle
from tasks.stage import complain_of, parameters, run_flow


@flow(name="serve")
def serve(host: str = "127.0.0.1", port: int = 8443) -> None:
    """Fetch the champion's bundle and serve it until stopped."""
    serve_bundle(approved_bundle(parameters()), host=host, port=port)


def main(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8443,
) -> None:
    """Serve the approved champion."""
    with complain_of():
        run_flow(serve, host=host, port=port)


if __name__ == "__main__":
    typer.run(main)
