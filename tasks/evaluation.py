"""Utility on the test patients."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.config import Params
from primia.data.image_set import load_image_set
from primia.data.origin import read_origin
from primia.evaluation.evaluate import evaluate
from primia.models.released import load_model
from tasks.paths import EVALUATION, FEDERATED, TEST, TEST_SET


@task(cache_policy=NO_CACHE)
def evaluate_model(params: Params) -> None:
    """Write results/evaluation."""
    model = load_model(FEDERATED, classes=params.ingest.classes)
    synthetic = read_origin(TEST).synthetic
    evaluate(model, load_image_set(TEST_SET), settings=params.evaluation, synthetic=synthetic).write(EVALUATION)
