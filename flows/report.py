"""report: model card, plots and the complete MLflow run."""

from prefect import flow

from tasks.report import write_report
from tasks.stage import parameters, run_stage


@flow(name="report")
def report() -> None:
    """One stage of dvc.yaml."""
    write_report(parameters())


if __name__ == "__main__":
    run_stage(report)
