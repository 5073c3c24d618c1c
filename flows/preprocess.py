"""preprocess: MONAI transforms; patients dealt to hospitals and splits."""

from prefect import flow

from tasks.intake import preprocess_images
from tasks.stage import parameters, run_stage


@flow(name="preprocess")
def preprocess() -> None:
    """One stage of dvc.yaml."""
    preprocess_images(parameters())


if __name__ == "__main__":
    run_stage(preprocess)
