"""compare: the same model trained centrally, by each hospital alone, and federated without and with protection."""

from prefect import flow

from tasks.comparison import compare_trainings
from tasks.stage import parameters, run_stage


@flow(name="compare")
def compare() -> None:
    """One stage of dvc.yaml."""
    compare_trainings(parameters())


if __name__ == "__main__":
    run_stage(compare)
