"""attack: what an attacker gets out of an update, against what the accountant allows."""

from prefect import flow

from tasks.attack import attack_model
from tasks.stage import parameters, run_stage


@flow(name="attack")
def attack() -> None:
    """One stage of dvc.yaml."""
    attack_model(parameters())


if __name__ == "__main__":
    run_stage(attack)
