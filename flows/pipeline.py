"""pipeline: the stages in the order of dvc.yaml, then registration for review."""

import typer
from prefect import flow

from flows.register import register
from tasks.repro import check_workspace, new_session, reproduce, stage_names, workspace_alone
from tasks.setup import require_images, use_profile
from tasks.stage import complain_of, parameters, run_flow
from tasks.summary import print_summary


@flow(name="pipeline")
def pipeline(stages: list[str] | None = None, register_model: bool = True) -> None:
    """Reproduce the stages (all, unless some are named) and register what came out.

    Hyper-parameters are not arguments: they live in params.yaml, so that dvc.lock tells the truth.
    """
    check_workspace()
    parameters()
    with workspace_alone(), new_session():
        ran = [reproduce(stage) for stage in stages or stage_names()]
        if not any(ran):
            print("Every stage is up to date: nothing to do.")
        if register_model:
            register()


def main(profile: str | None = None, data: str | None = None) -> None:
    """Run the pipeline as a command and print a summary."""
    with complain_of():
        use_profile(profile, data)
        # Mistakes are told before a server is started.
        check_workspace()
        require_images(parameters())
        run_flow(pipeline)
        print_summary()


if __name__ == "__main__":
    typer.run(main)
