"""The federate stage: live curves in MLflow, progress in Prefect and the terminal."""

from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.federation.checkpoint import RoundRecord
from primia.federation.coordinator import FederationResult
from primia.federation.floors import Floors
from primia.federation.results import write_results
from primia.federation.run import federate
from primia.files import folder_in_progress
from primia.models.released import save_model
from tasks.environment import state_folder
from tasks.paths import FEDERATED, FEDERATION, SITES
from tasks.progress import progress
from tasks.tracking import RunLog


# Never retried: a retry would draw DP noise, and spend budget, a second time.
@task(cache_policy=NO_CACHE, retries=0)
def train_federation(params: Params) -> None:
    """Run the rounds; write models/federated and results/federation."""
    run = RunLog.of_this_pass()
    rounds = params.federation.rounds
    artifact = create_progress_artifact(progress=0.0, key="rounds", description="Rounds of the federation")
    with progress("Federated rounds") as advance:

        def on_round(record: RoundRecord) -> None:
            advance(record.round, rounds)
            update_progress_artifact(artifact, progress=100.0 * record.round / rounds)
            run.metrics("round", asdict(record), step=record.round)

        result = federate(
            params, sites=SITES, state=state_folder(), floors=floors_of(params), on_round=on_round, on_result=_save
        )
    if result.stopped is not None:
        print(f"The federation ended early: {result.stopped}")


def floors_of(params: Params) -> Floors | None:
    """Phantoms belong to nobody, so all is allowed; with other images every hospital's own floors.json decides."""
    if params.ingest.source != "phantom":
        return None
    in_clear = params.secure_aggregation.scheme == "none"
    return Floors(allow_clear=in_clear, allow_newcomers=True, maximum_epsilon=100.0, maximum_delta=1.0)


def _save(result: FederationResult) -> None:
    save_model(FEDERATED, result.model)
    with folder_in_progress(FEDERATION) as folder:
        write_results(folder, result)
