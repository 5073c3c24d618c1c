"""How every stage starts and ends: checked parameters, one MLflow run, one sentence when something is wrong."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from primia.config import Params, load_params
from primia.errors import PrimiaError

# A folder in which a stage tells the pipeline that it ran, and what went wrong.
REPORT_TO, STARTED, SENTENCE = "PRIMIA_REPORT_TO", "started", "sentence"


class _OneSentence(logging.Filter):
    """What a user can mend is said once, by `complain_of`; Prefect keeps it as the state's message."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        repeated = isinstance(error, PrimiaError) or "Finished in state" in record.getMessage()
        return not repeated


def parameters() -> Params:
    """params.yaml of this folder, checked."""
    return load_params()


def run_flow(flow: Callable[..., Any], **arguments: Any) -> Any:
    """Call a flow from a command."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(given, _OneSentence) for given in logger.filters):
            logger.addFilter(_OneSentence())
    return flow(**arguments)


@contextlib.contextmanager
def complain_of() -> Iterator[None]:
    """Turn an error a user can mend into one sentence and exit status 1.

    Inside a pipeline run the sentence goes to the pipeline, which says it once.
    """
    pipeline = os.environ.get(REPORT_TO)
    if pipeline:
        (Path(pipeline) / STARTED).touch()
    try:
        yield
    except PrimiaError as error:
        if pipeline:
            (Path(pipeline) / SENTENCE).write_text(str(error))
        else:
            print(f"primia: {error}", file=sys.stderr)
        sys.exit(1)


def run_stage(stage: Callable[[], Any]) -> None:
    """Run a stage's flow as the command in dvc.yaml."""
    from tasks.tracking import RunLog

    with complain_of():
        params = parameters()
        run = RunLog.of_this_pass()
        run.running()
        run.parameters(params.model_dump(mode="json"))
        failed = True
        try:
            run_flow(stage)
            failed = False
        finally:
            run.ended(failed=failed)
