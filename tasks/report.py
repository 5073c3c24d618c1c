"""The report stage: model card and plots from the files, and the MLflow run completed from them."""

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.report.build import build_report
from tasks.approval import files_digest
from tasks.environment import checkout
from tasks.paths import CARD_TEMPLATE, REPORT
from tasks.tracking import FILES_TAG, RunLog


@task(cache_policy=NO_CACHE)
def write_report(params: Params) -> None:
    """Write results/report and bring the MLflow run of this pass up to the files."""
    build_report(Path(), template=CARD_TEMPLATE, target=REPORT)
    create_markdown_artifact((REPORT / "model_card.md").read_text(), key="model-card")
    run = RunLog.of_this_pass()
    run.from_files(checkout())
    run.tag(FILES_TAG, files_digest(checkout()))
