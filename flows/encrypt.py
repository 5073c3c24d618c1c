"""encrypt: distil a network that answers on encrypted images, and check that it agrees."""

from prefect import flow

from tasks.encryption import encrypt_model
from tasks.stage import parameters, run_stage


@flow(name="encrypt")
def encrypt() -> None:
    """One stage of dvc.yaml."""
    encrypt_model(parameters())


if __name__ == "__main__":
    run_stage(encrypt)
