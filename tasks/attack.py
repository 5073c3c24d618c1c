"""The attack stage: gradient retrieval at the first and at the released weights; the worse one counts."""

from dataclasses import replace
from functools import partial

from prefect import task
from prefect.cache_policies import NO_CACHE

from primia.attacks.results import write_results
from primia.attacks.run import retrieval_curve, run_retrieval
from primia.config import Params
from primia.data.image_set import load_image_set
from primia.files import folder_in_progress, read_json
from primia.models.released import load_model
from primia.training.pretrain import initial_network
from primia.training.private import private_gradient
from tasks.paths import ATTACK, FEDERATED, FEDERATION, TEST_SET
from tasks.progress import progress


@task(cache_policy=NO_CACHE)
def attack_model(params: Params) -> None:
    """Write results/attack. Test patients are the candidates: nobody was trained on them."""
    released = load_model(FEDERATED, classes=params.ingest.classes)
    first = replace(
        released,
        network=initial_network(
            params.model, params.training, classes=params.ingest.classes, pixels=params.preprocess.pixels
        ),
        round=0,
    )
    gallery = load_image_set(TEST_SET)
    # The noise that was really drawn, from the file of the federation, not what params.yaml asks for.
    privacy = read_json(FEDERATION / "privacy.json")
    sigma = float(privacy["noise_multiplier"]) if privacy["enabled"] else 0.0
    clip = params.privacy.clip_norm
    release = partial(private_gradient, precision=params.training.precision)
    reports = []
    for model in (first, released):
        with progress(f"Attacking the weights of round {model.round}") as advance:
            reports.append(
                run_retrieval(
                    model,
                    gallery,
                    clip_norm=clip,
                    noise_multiplier=sigma,
                    settings=params.attack,
                    on_progress=advance,
                    release=release,
                )
            )
    curve = []
    if sigma > 0:
        with progress("Retrieval against the noise") as advance:
            curve = retrieval_curve(
                released, gallery, clip_norm=clip, settings=params.attack, on_progress=advance, release=release
            )
    with folder_in_progress(ATTACK) as folder:
        write_results(folder, reports, curve, model_digest=released.digest())
