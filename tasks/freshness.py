"""Asking DVC whether the results are those of the code, data and parameters at hand."""

import os
import subprocess
import sys

from primia.errors import GateError
from tasks.environment import checkout


def require_fresh() -> None:
    """Check that no stage is stale and no output was changed by hand since its stage wrote it.

    Raises:
        GateError: names the way out.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--quiet"], cwd=checkout(), env=dict(os.environ), capture_output=True
    )
    if answer.returncode != 0:
        raise GateError(
            "The results are not those of the present code, data and parameters (dvc status tells which); "
            "run dvc repro, then register."
        )
