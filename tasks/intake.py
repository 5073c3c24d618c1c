"""Images in: from a source to data/raw, and from there to a set per hospital and a test set."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.data.ingest import ingest
from primia.data.sites import build_site_sets
from tasks.environment import state_folder
from tasks.paths import RAW, SITES, TEST
from tasks.progress import progress


@task(cache_policy=NO_CACHE)
def ingest_images(params: Params) -> None:
    """Write data/raw: accepted images, manifest, quarantine list."""
    with progress("Reading images") as advance:
        ingest(
            params.ingest,
            task=params.task,
            hospitals=params.preprocess.hospitals,
            target=RAW,
            quarantine_path=state_folder() / "ingest" / "quarantine.csv",
            on_progress=advance,
        )


@task(cache_policy=NO_CACHE)
def preprocess_images(params: Params) -> None:
    """Write data/sites/<hospital> and data/test."""
    with progress("Preprocessing images") as advance:
        build_site_sets(
            params.preprocess, classes=params.ingest.classes, raw=RAW, sites=SITES, test=TEST, on_progress=advance
        )
