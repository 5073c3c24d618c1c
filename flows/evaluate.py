"""evaluate: utility on the untouched test patients."""

from prefect import flow

from tasks.evaluation import evaluate_model
from tasks.stage import parameters, run_stage


@flow(name="evaluate")
def evaluate() -> None:
    """One stage of dvc.yaml."""
    evaluate_model(parameters())


if __name__ == "__main__":
    run_stage(evaluate)
