"""ingest: accept or quarantine the images of a source, with a manifest."""

from prefect import flow

from tasks.intake import ingest_images
from tasks.stage import parameters, run_stage


@flow(name="ingest")
def ingest() -> None:
    """One stage of dvc.yaml."""
    ingest_images(parameters())


if __name__ == "__main__":
    run_stage(ingest)
