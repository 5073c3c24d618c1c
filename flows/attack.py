"""attack: what attackers get out of updates and of the released model, against what the accountant allows."""

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from tasks.attack import WORKERS, attack_model
from tasks.stage import parameters, run_stage


@flow(name="attack", task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))
def attack() -> None:
    """One stage of dvc.yaml."""
    attack_model(parameters())


if __name__ == "__main__":
    run_stage(attack)
