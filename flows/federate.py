"""federate: rounds of training at the hospitals, securely aggregated, private per patient."""

from prefect import flow

from tasks.federation import train_federation
from tasks.stage import parameters, run_stage


@flow(name="federate")
def federate() -> None:
    """One stage of dvc.yaml."""
    train_federation(parameters())


if __name__ == "__main__":
    run_stage(federate)
