"""Flows: one file per stage of dvc.yaml, plus pipeline, register, promote and serve."""

from tasks.environment import prepare

# Before any flow imports prefect: it reads its settings once, on import.
prepare()
