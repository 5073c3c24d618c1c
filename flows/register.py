"""register: log the results and register the model version; alias challenger when every gate holds."""

from prefect import flow

from tasks.registry import register_version
from tasks.stage import complain_of, parameters, run_flow


@flow(name="register")
def register() -> None:
    """Idempotent: the same files give no second version."""
    register_version(parameters())


if __name__ == "__main__":
    with complain_of():
        run_flow(register)
