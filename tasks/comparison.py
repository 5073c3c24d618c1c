"""The compare stage: what federation and privacy cost, where a user asks for it."""

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from primia.comparison.outcome import Comparison
from primia.comparison.results import write_results, write_skipped
from primia.config import Params
from primia.files import folder_in_progress
from tasks.environment import state_folder
from tasks.paths import COMPARISON, SITES, TEST_SET
from tasks.progress import progress


@task(cache_policy=NO_CACHE)
def compare_trainings(params: Params) -> None:
    """Write results/comparison; without comparison.enabled it says so and costs nothing."""
    if not params.comparison.enabled:
        with folder_in_progress(COMPARISON) as folder:
            write_skipped(folder)
        return
    # Torch takes seconds to import, and is not needed to say that nothing was compared.
    from primia.comparison.run import compare

    artifact = create_progress_artifact(progress=0.0, key="comparison", description="Rounds of the comparison")
    with progress("Rounds of the comparison") as advance:

        def on_round(done: int, total: int) -> None:
            advance(done, total)
            update_progress_artifact(artifact, progress=100.0 * done / total)

        def save(comparison: Comparison) -> None:
            with folder_in_progress(COMPARISON) as folder:
                write_results(folder, comparison, params=params)

        compare(
            params,
            sites=SITES,
            test=TEST_SET,
            state=state_folder() / "comparison",
            on_round=on_round,
            on_result=save,
        )
